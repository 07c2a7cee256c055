// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// newScheme knows the published types alone. The library wants an internal
// version per group, and takes the published type as its own internal one:
// then no conversion stands between the wire and the store.
func newScheme(rows []*row) (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientscheme.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("cannot build scheme: %w", err)
	}
	// The types alone: the package's scheme has internal ones.
	s.AddKnownTypes(apiregistrationv1.SchemeGroupVersion, &apiregistrationv1.APIService{}, &apiregistrationv1.APIServiceList{})
	metav1.AddToGroupVersion(s, apiregistrationv1.SchemeGroupVersion)
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, v1)
	s.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	for _, r := range rows {
		if err := r.register(s); err != nil {
			return nil, fmt.Errorf("cannot build scheme: %s: %w", r.plural, err)
		}
	}
	for group, kinds := range virtualKinds() {
		s.AddKnownTypes(internal(group), kinds...)
	}
	if err := addEventsGroup(s); err != nil {
		return nil, fmt.Errorf("cannot build scheme: events: %w", err)
	}
	if err := addQueryOptions(s); err != nil {
		return nil, fmt.Errorf("cannot build scheme: %w", err)
	}
	return s, nil
}

func internal(group string) schema.GroupVersion {
	return schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
}

func (r *row) register(s *runtime.Scheme) error {
	s.AddKnownTypes(internal(r.gv.Group), r.newObject(), r.newList())
	if r.defaults != nil {
		s.AddTypeDefaultingFunc(r.newObject(), func(o any) { r.defaults(o.(runtime.Object)) })
		s.AddTypeDefaultingFunc(r.newList(), func(o any) {
			// EachListItem fails only on what is no list.
			_ = meta.EachListItem(o.(runtime.Object), func(i runtime.Object) error { r.defaults(i); return nil })
		})
	}
	if err := s.SetVersionPriority(r.gv); err != nil {
		return err
	}
	if r.selectable == nil {
		return s.AddFieldLabelConversionFunc(r.gv.WithKind(r.kind), runtime.DefaultMetaV1FieldSelectorConversion)
	}
	known := r.attributes(r.newObject())
	return s.AddFieldLabelConversionFunc(r.gv.WithKind(r.kind), func(label, value string) (string, string, error) {
		if alias := r.fieldAlias(label); alias != "" {
			label = alias
		}
		if _, ok := known[label]; !ok {
			switch r.gv.Group { // some have words of their own
			case batchv1.GroupName:
				return "", "", fmt.Errorf("field label %q not supported for %s", label, r.kind)
			case resourcev1.GroupName:
				return "", "", fmt.Errorf("field label not supported for %s: %s", r.gv.WithKind(r.kind), label)
			}
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	})
}

// fieldAlias is the older name of a selectable field, or "".
func (r *row) fieldAlias(label string) string {
	if r.kind == "Pod" && label == "spec.host" {
		return "spec.nodeName"
	}
	return ""
}

// addQueryOptions lets the streaming subresources read their options from the
// query.
func addQueryOptions(s *runtime.Scheme) error {
	for _, o := range []runtime.Object{
		&corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodLogOptions{}, &corev1.PodProxyOptions{}, &corev1.ServiceProxyOptions{}, &corev1.NodeProxyOptions{},
	} {
		s.AddKnownTypes(internal(""), o)
		err := s.AddConversionFunc((*url.Values)(nil), o, func(from, into any, _ conversion.Scope) error {
			return fromQuery(*from.(*url.Values), into)
		})
		if err != nil {
			return err
		}
	}
	s.AddTypeDefaultingFunc(&corev1.PodExecOptions{}, func(o any) {
		e := o.(*corev1.PodExecOptions)
		e.Stdout, e.Stderr = true, true
	})
	s.AddTypeDefaultingFunc(&corev1.PodAttachOptions{}, func(o any) {
		e := o.(*corev1.PodAttachOptions)
		e.Stdout, e.Stderr = true, true
	})
	return nil
}

// fromQuery fills a flat options struct from query parameters by JSON name.
func fromQuery(q url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values := q[name]
		if name == "" || len(values) == 0 {
			continue
		}
		if err := setField(v.Field(i), values); err != nil {
			return fmt.Errorf("cannot read query parameter %s: %w", name, err)
		}
	}
	return nil
}

func setField(f reflect.Value, values []string) error {
	if f.Kind() == reflect.Pointer {
		if f.Type() == reflect.TypeFor[*metav1.Time]() {
			t := new(metav1.Time)
			f.Set(reflect.ValueOf(t))
			return t.UnmarshalQueryParameter(values[0])
		}
		f.Set(reflect.New(f.Type().Elem()))
		f = f.Elem()
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool:
		// As the API machinery reads booleans: present and not false is true.
		f.SetBool(values[0] != "false" && values[0] != "0")
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			return err
		}
		f.SetInt(n)
	case reflect.Slice:
		out := reflect.MakeSlice(f.Type(), len(values), len(values))
		for i, s := range values {
			if err := setField(out.Index(i), []string{s}); err != nil {
				return err
			}
		}
		f.Set(out)
	}
	return nil
}
