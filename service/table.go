// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"
)

// table is what the kernel has, or is about to have, in terms of frontends. It
// turns changes of Services into the nft commands that make the difference.
type table struct {
	rules  rules
	claims map[key][]frontend // who wants an address; the first has it
	keys   map[string][]key   // by owner
	active map[key]*frontend  // who has it, its backends at their numbers
	refs   map[id]int         // users of each shared object
	shared map[id]object      // what they use
}

func newTable(r rules) *table {
	return &table{
		rules: r, claims: map[key][]frontend{}, keys: map[string][]key{}, active: map[key]*frontend{},
		refs: map[id]int{}, shared: map[id]object{},
	}
}

// replace gives a Service other frontends, and notes the addresses that this
// may change.
func (t *table) replace(owner string, want []frontend, touched map[key]bool) {
	for _, k := range t.keys[owner] {
		t.claims[k] = slices.DeleteFunc(t.claims[k], func(f frontend) bool { return f.owner == owner })
		if len(t.claims[k]) == 0 {
			delete(t.claims, k)
		}
		touched[k] = true
	}
	delete(t.keys, owner)
	for _, f := range want {
		if slices.Contains(t.keys[owner], f.key) {
			continue // an external IP named twice
		}
		t.keys[owner] = append(t.keys[owner], f.key)
		t.claims[f.key] = append(t.claims[f.key], f)
		// Two Services may name one external IP and port: the older has it.
		slices.SortFunc(t.claims[f.key], func(a, b frontend) int {
			return cmp.Or(a.since.Compare(b.since.Time), cmp.Compare(a.owner, b.owner))
		})
		touched[f.key] = true
	}
}

// delta is a difference of the table: objects as they were and as they should
// be. One that is in both, and equal, does not change.
type delta struct {
	had, want map[id]object
	seen      map[id]bool // of shared objects
}

func newDelta() *delta {
	return &delta{had: map[id]object{}, want: map[id]object{}, seen: map[id]bool{}}
}

// settle brings the addresses in line with who claims them now.
func (t *table) settle(touched map[key]bool) *delta {
	d := newDelta()
	for k := range touched {
		had := t.active[k]
		var want *frontend
		if c := t.claims[k]; len(c) > 0 {
			f := c[0]
			if had != nil {
				f.backends, f.near = place(had.backends, f.backends), place(had.near, f.near)
			}
			want = &f
		}
		if had != nil {
			for _, o := range t.rules.objects(had) {
				t.drop(o, d)
			}
		}
		delete(t.active, k)
		if want != nil {
			t.active[k] = want
			for _, o := range t.rules.objects(want) {
				t.add(o, d)
			}
		}
	}
	return d
}

// place numbers backends such that as few as possible change their number:
// new ones take the numbers of those that are gone, and what is then left over
// at the end fills the holes.
func place(had, want []netip.AddrPort) []netip.AddrPort {
	left := make(map[netip.AddrPort]bool, len(want))
	for _, b := range want {
		left[b] = true
	}
	out := make([]netip.AddrPort, 0, len(want))
	var holes []int
	for _, b := range had {
		if !left[b] {
			holes = append(holes, len(out))
			b = netip.AddrPort{}
		}
		delete(left, b)
		out = append(out, b)
	}
	for _, b := range want {
		if !left[b] {
			continue
		}
		if len(holes) > 0 {
			out[holes[0]], holes = b, holes[1:]
			continue
		}
		out = append(out, b)
	}
	for len(out) > len(want) {
		last := len(out) - 1
		if out[last].IsValid() {
			out[holes[0]], holes = out[last], holes[1:]
		}
		out = out[:last]
	}
	return out
}

func (t *table) drop(o object, d *delta) {
	if !o.shared {
		d.had[o.id] = o
		delete(d.want, o.id)
		return
	}
	t.meet(o, d)
	t.refs[o.id]--
	if t.refs[o.id] == 0 {
		delete(t.refs, o.id)
		delete(t.shared, o.id)
		delete(d.want, o.id)
	}
}

func (t *table) add(o object, d *delta) {
	if o.shared {
		t.meet(o, d)
		t.refs[o.id]++
		t.shared[o.id] = o
	}
	d.want[o.id] = o
}

// meet notes what a shared object was before this delta.
func (t *table) meet(o object, d *delta) {
	if !d.seen[o.id] && t.refs[o.id] > 0 {
		d.had[o.id], d.want[o.id] = o, o
	}
	d.seen[o.id] = true
}

// all is the difference from an empty table.
func (t *table) all() *delta {
	d := newDelta()
	maps.Copy(d.want, t.shared)
	for _, f := range t.active {
		for _, o := range t.rules.objects(f) {
			d.want[o.id] = o
		}
	}
	return d
}

// sorted are objects in the order of their making: sets, chains, elements.
func sorted(m map[id]object) []object {
	return slices.SortedFunc(maps.Values(m), func(a, b object) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name), cmp.Compare(a.key, b.key))
	})
}

// write appends the commands that make the difference. What is referred to is
// there before those that refer, and goes after them.
func (d *delta) write(tx *knftables.Transaction, r rules) {
	gone, fresh := map[id]object{}, map[id]object{}
	for i, o := range d.had {
		if n, ok := d.want[i]; !ok || !n.equal(o) {
			gone[i] = o
		}
	}
	for i, o := range d.want {
		if h, ok := d.had[i]; !ok || !h.equal(o) {
			fresh[i] = o
		}
	}
	old, made := sorted(gone), sorted(fresh)
	for _, o := range old {
		if o.kind == elementOfMap || o.kind == elementOfSet {
			tx.Delete(o.element())
		}
	}
	writeChains(tx, r, made, func(o object) bool { _, had := gone[o.id]; return had })
	for _, o := range made {
		if o.kind == elementOfMap || o.kind == elementOfSet {
			tx.Add(o.element())
		}
	}
	old = slices.DeleteFunc(old, func(o object) bool { _, again := fresh[o.id]; return again })
	for _, o := range old {
		if o.kind == chainObject {
			tx.Flush(&knftables.Chain{Name: o.name})
		}
	}
	for _, o := range old {
		if o.kind == chainObject {
			tx.Delete(&knftables.Chain{Name: o.name})
		}
	}
	for _, o := range old {
		if o.kind == setObject {
			tx.Delete(&knftables.Set{Name: o.name})
		}
	}
}

// writeChains adds sets and chains, then the rules, which may name any of them.
func writeChains(tx *knftables.Transaction, r rules, made []object, exists func(object) bool) {
	for _, o := range made {
		switch o.kind {
		case setObject:
			tx.Add(r.affinitySet(o.name))
		case chainObject:
			tx.Add(&knftables.Chain{Name: o.name})
			if exists(o) {
				tx.Flush(&knftables.Chain{Name: o.name})
			}
		}
	}
	for _, o := range made {
		for _, rule := range o.rules {
			tx.Add(&knftables.Rule{Chain: o.name, Rule: rule})
		}
	}
}

func (o object) element() *knftables.Element {
	e := &knftables.Element{Key: strings.Split(o.key, " . ")}
	if o.kind == elementOfSet {
		e.Set = o.name
		return e
	}
	e.Map, e.Value = o.name, []string{o.value}
	return e
}

// found names what a table has already.
type found struct{ chains, maps, sets []string }

// rebuild writes the whole of our part of the table anew, whatever was there:
// one transaction, so that each packet meets the old rules or the new. Sets of
// clients that are still wanted keep their content.
func (t *table) rebuild(tx *knftables.Transaction, have found) {
	d := t.all()
	tx.Add(&knftables.Table{})
	for _, c := range have.chains {
		tx.Flush(&knftables.Chain{Name: c})
	}
	for _, m := range have.maps {
		tx.Delete(&knftables.Map{Name: m})
	}
	for _, c := range have.chains {
		tx.Delete(&knftables.Chain{Name: c})
	}
	for _, s := range have.sets {
		if _, wanted := d.want[id{kind: setObject, name: s}]; !wanted {
			tx.Delete(&knftables.Set{Name: s})
		}
	}
	hooks := t.rules.hooks()
	for _, h := range hooks {
		tx.Add(&knftables.Chain{Name: h.name, Type: &h.typ, Hook: &h.at, Priority: &h.prio})
	}
	for _, s := range t.rules.sets() {
		tx.Add(s)
	}
	for _, m := range t.rules.maps() {
		tx.Add(m)
	}
	writeChains(tx, t.rules, t.rules.fixedChains(), func(object) bool { return false })
	for _, h := range hooks {
		for _, rule := range h.rule {
			tx.Add(&knftables.Rule{Chain: h.name, Rule: rule})
		}
	}
	d.write(tx, t.rules)
}
