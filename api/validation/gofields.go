// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// goFields shows a value under the names of its Go fields, none left out.
// Kubernetes checks objects in its internal types, which have no JSON names:
// that is how whole structs and differences stand in its messages.
type goFields struct{ value any }

// MarshalJSON writes the value; types outside the API's groups write
// themselves.
func (g goFields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := writeGo(&b, reflect.ValueOf(g.value))
	return b.Bytes(), err
}

func writeGo(b *bytes.Buffer, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			break
		}
		return writeGo(b, v.Elem())
	case reflect.Struct:
		if strings.HasPrefix(v.Type().PkgPath(), "k8s.io/api/") {
			return writeStruct(b, v)
		}
	case reflect.Slice:
		if !v.IsNil() && v.Type().Elem().Kind() != reflect.Uint8 {
			return writeList(b, v)
		}
	case reflect.Map:
		if !v.IsNil() {
			return writeMap(b, v)
		}
	}
	if !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() {
		b.WriteString("null")
		return nil
	}
	j, err := json.Marshal(v.Interface())
	b.Write(j)
	return err
}

func writeStruct(b *bytes.Buffer, v reflect.Value) error {
	b.WriteByte('{')
	if err := writeFields(b, v); err != nil {
		return err
	}
	b.WriteByte('}')
	return nil
}

// writeFields writes embedded structs as part of the one around them.
func writeFields(b *bytes.Buffer, v reflect.Value) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && !strings.HasPrefix(f.Type.PkgPath(), "k8s.io/api/") {
			if err := writeEmbedded(b, v.Field(i), i+1 < v.NumField()); err != nil {
				return err
			}
			continue
		}
		if i > 0 && !bytes.HasSuffix(b.Bytes(), []byte{','}) && !bytes.HasSuffix(b.Bytes(), []byte{'{'}) {
			b.WriteByte(',')
		}
		if f.Anonymous && strings.HasPrefix(f.Type.PkgPath(), "k8s.io/api/") {
			if err := writeFields(b, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(b, "%q:", f.Name)
		if err := writeGo(b, v.Field(i)); err != nil {
			return fmt.Errorf("cannot show %s: %w", f.Name, err)
		}
	}
	return nil
}

// writeEmbedded writes what a type that writes itself has to say without its
// braces; more says that fields follow.
func writeEmbedded(b *bytes.Buffer, v reflect.Value, more bool) error {
	j, err := json.Marshal(v.Interface())
	if err != nil {
		return fmt.Errorf("cannot show %s: %w", v.Type(), err)
	}
	if j = bytes.TrimSuffix(bytes.TrimPrefix(j, []byte{'{'}), []byte{'}'}); len(j) == 0 {
		return nil
	}
	if !bytes.HasSuffix(b.Bytes(), []byte{'{'}) {
		b.WriteByte(',')
	}
	b.Write(j)
	if more {
		b.WriteByte(',')
	}
	return nil
}

func writeList(b *bytes.Buffer, v reflect.Value) error {
	b.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := writeGo(b, v.Index(i)); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

func writeMap(b *bytes.Buffer, v reflect.Value) error {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(k.String())
		if err != nil {
			return err
		}
		b.Write(name)
		b.WriteByte(':')
		if err := writeGo(b, v.MapIndex(k)); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}
