// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// name is what a name of the zone is about, without the zone. What is not said
// is empty.
type name struct {
	kind                     kind
	namespace, object        string // of the Service; the object of a Pod is its dashed address
	endpoint, port, protocol string
}

type kind int

const (
	unknownName kind = iota
	apexName         // the zone itself
	branchName       // what only has names below it
	versionName      // dns-version
	serverName       // ns.dns: this server
	podName
	serviceName
	protocolName // _tcp of a Service, which only has names below it
)

// parse reads the labels of a name in lower case, as the specification has them:
//
//	[[_port.]_protocol.|endpoint.]service.namespace.svc
//	address-with-dashes.namespace.pod
func parse(labels []string) name {
	switch strings.Join(labels, ".") {
	case "":
		return name{kind: apexName}
	case "svc", "pod", "dns":
		return name{kind: branchName}
	case "dns-version":
		return name{kind: versionName}
	case "ns.dns":
		return name{kind: serverName}
	}
	last := len(labels) - 1
	n := name{namespace: labels[last-min(1, last)]}
	if last > 1 {
		n.object = labels[last-2]
	}
	switch {
	case labels[last] == "pod" && last <= 2:
		n.kind = podName
	case labels[last] != "svc" || last == 0:
		return name{}
	case last <= 2:
		n.kind = serviceName
	case last == 3:
		n.kind, n.endpoint = serviceName, labels[0]
		if protocol, ok := strings.CutPrefix(labels[0], "_"); ok {
			n.kind, n.endpoint, n.protocol = protocolName, "", protocol
		}
	case last == 4:
		port, portOK := strings.CutPrefix(labels[0], "_")
		protocol, protocolOK := strings.CutPrefix(labels[1], "_")
		if !portOK || !protocolOK {
			return name{}
		}
		n.kind, n.port, n.protocol = serviceName, port, protocol
	default:
		return name{}
	}
	return n
}

// within gives the labels of a name before the zone.
func within(qname, zone string) (labels []string, ok bool) {
	if !dns.IsSubDomain(zone, qname) {
		return nil, false
	}
	all := dns.SplitDomainName(strings.ToLower(qname))
	return all[:len(all)-dns.CountLabel(zone)], true
}

// dashed is how an address is written as one label.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// undashed reads it. Which of the two families it is shows in the dashes.
func undashed(label string) (netip.Addr, bool) {
	separator := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		separator = "."
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", separator))
	return a, err == nil && !strings.Contains(label, ".") && a.Zone() == ""
}

// reversed is the address that a name of in-addr.arpa or ip6.arpa is about.
func reversed(qname string) (netip.Addr, bool) {
	if labels, ok := within(qname, "in-addr.arpa."); ok && len(labels) == 4 {
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	labels, ok := within(qname, "ip6.arpa.")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(labels)
	var b [16]byte
	for i, digit := range labels {
		n, err := strconv.ParseUint(digit, 16, 4)
		if err != nil || len(digit) != 1 {
			return netip.Addr{}, false
		}
		b[i/2] = b[i/2]<<4 | byte(n)
	}
	return netip.AddrFrom16(b), true
}
