// SPDX-License-Identifier: Apache-2.0

package validation

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DeviceClass checks a class of devices.
func DeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	return append(meta(&c.ObjectMeta, false, nameByType), deviceClass(c, nil).all()...)
}

// DeviceClassUpdate checks a change; selectors and configuration that stay are
// taken as they were.
func DeviceClassUpdate(c, old *resourcev1.DeviceClass) field.ErrorList {
	errs := append(meta(&c.ObjectMeta, false, nameByType), metaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
	return append(errs, deviceClass(c, &old.Spec).all()...)
}

func deviceClass(c *resourcev1.DeviceClass, old *resourcev1.DeviceClassSpec) *found {
	f := &found{}
	if c.Name != "" {
		f.declare(byType(validate.LongName[string], c.Name, metadata.Child("name")))
	}
	s := &c.Spec
	f.selectors(s.Selectors, old != nil && equality.Semantic.DeepEqual(s.Selectors, old.Selectors), spec.Child("selectors"))
	stored, at := old != nil && equality.Semantic.DeepEqual(s.Config, old.Config), spec.Child("config")
	if few(f, s.Config, resourcev1.DeviceConfigMaxSize, at) {
		for i, k := range s.Config {
			f.configuration(k.DeviceConfiguration, stored, at.Index(i))
		}
	}
	if n := s.ExtendedResourceName; n != nil {
		f.declare(byType(validate.ExtendedResourceName[string], *n, spec.Child("extendedResourceName")))
	}
	return f
}
