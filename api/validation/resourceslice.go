// SPDX-License-Identifier: Apache-2.0

package validation

import (
	gocontext "context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceSlice checks what a driver says that there is.
func ResourceSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	return append(meta(&s.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), resourceSliceSpec(&s.Spec, nil)...)
}

// ResourceSliceUpdate checks a change; whose slice it is stays.
func ResourceSliceUpdate(s, old *resourcev1.ResourceSlice) field.ErrorList {
	return append(metaUpdate(&s.ObjectMeta, &old.ObjectMeta), resourceSliceSpec(&s.Spec, &old.Spec)...)
}

// ResourceSliceWarnings says that the names of drivers are written small.
func ResourceSliceWarnings(s, _ *resourcev1.ResourceSlice) []string {
	if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
		return nil
	}
	return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
}

func resourceSliceSpec(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	f := &found{}
	driver, pool, node := spec.Child("driver"), spec.Child("pool"), spec.Child("nodeName")
	f.write(driverName(s.Driver, driver)...)
	f.write(poolName(s.Pool.Name, pool.Child("name"))...)
	f.write(positive(s.Pool.ResourceSliceCount, pool.Child("resourceSliceCount"))...)
	if n := s.Pool.Generation; n < 0 {
		f.write(field.Invalid(pool.Child("generation"), n, "must be greater than or equal to zero"))
	}
	if old != nil {
		f.write(apivalidation.ValidateImmutableField(s.Pool.Name, old.Pool.Name, pool.Child("name"))...)
		f.write(apivalidation.ValidateImmutableField(s.Driver, old.Driver, driver)...)
		f.write(apivalidation.ValidateImmutableField(s.NodeName, old.NodeName, node)...)
	}
	f.write(sliceNodes(s)...)
	if s.SharedCounters != nil && s.Devices != nil {
		f.write(field.Invalid(spec, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	f.devices(s, old)
	if at := spec.Child("sharedCounters"); few(f, s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, at) {
		different(f, s.SharedCounters, func(c resourcev1.CounterSet) string { return c.Name }, at)
		for i, c := range s.SharedCounters {
			f.counters(c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Index(i).Child("name"), at.Index(i))
		}
	}
	return f.all()
}

// where collects the ways in which a slice or a device says which nodes reach
// it; there is one.
type where struct {
	set  []string
	errs field.ErrorList
}

func (w *where) node(name *string, empty string, at *field.Path) {
	switch {
	case name == nil:
	case *name == "":
		w.errs = append(w.errs, field.Invalid(at, *name, empty))
	default:
		w.set = append(w.set, "`nodeName`")
		w.errs = append(w.errs, invalidAll(at, *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
}

func (w *where) selector(s *corev1.NodeSelector, at *field.Path) {
	if s != nil {
		w.set = append(w.set, "`nodeSelector`")
		w.errs = append(w.errs, nodeSelector(s, false, at.Child("nodeSelectorTerms"))...)
	}
}

func (w *where) flag(v *bool, name string, at *field.Path) {
	switch {
	case v == nil:
	case *v:
		w.set = append(w.set, "`"+name+"`")
	default:
		w.errs = append(w.errs, field.Invalid(at.Child(name), *v, "must be either unset or set to true"))
	}
}

func (w *where) one(missing, several string, at *field.Path) field.ErrorList {
	switch len(w.set) {
	case 0:
		return append(w.errs, field.Required(at, missing))
	case 1:
		return w.errs
	}
	return append(w.errs, field.Invalid(at, "{"+strings.Join(w.set, ", ")+"}", several))
}

func sliceNodes(s *resourcev1.ResourceSliceSpec) field.ErrorList {
	w := &where{}
	w.node(s.NodeName, "must be either unset or set to a non-empty string", spec.Child("nodeName"))
	w.selector(s.NodeSelector, spec.Child("nodeSelector"))
	if s.NodeSelector != nil && len(s.NodeSelector.NodeSelectorTerms) != 1 {
		w.errs = append(w.errs, field.Invalid(spec.Child("nodeSelector", "nodeSelectorTerms"), goFields{s.NodeSelector.NodeSelectorTerms}, "must have exactly one node selector term"))
	}
	w.flag(s.AllNodes, "allNodes", spec)
	w.flag(s.PerDeviceNodeSelection, "perDeviceNodeSelection", spec)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	return w.one(one, one+", but multiple fields are set", spec)
}

func deviceNodes(d *resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	w := &where{}
	w.node(d.NodeName, "must not be empty", at.Child("nodeName"))
	w.selector(d.NodeSelector, at.Child("nodeSelector"))
	w.flag(d.AllNodes, "allNodes", at)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	return w.one(one, one, at)
}

func (f *found) devices(s, old *resourcev1.ResourceSliceSpec) {
	at, most := spec.Child("devices"), resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	if len(s.Devices) > most {
		f.write(field.TooMany(at, len(s.Devices), most))
		return
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		for i := range old.Devices {
			before[old.Devices[i].Name] = &old.Devices[i]
		}
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		f.device(d, before[d.Name], yes(s.PerDeviceNodeSelection), at.Index(i))
	}
	names := &unique{}
	for i := range s.Devices {
		f.write(names.add(s.Devices[i].Name, at.Index(i))...)
	}
}

// device checks one device; capacity that stays is taken as it was.
func (f *found) device(d, old *resourcev1.Device, perDevice bool, at *field.Path) {
	f.write(label(d.Name, at.Child("name"))...)
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	if n := len(d.Attributes) + len(d.Capacity); n > most {
		f.write(field.Invalid(at, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most)))
	}
	const mostValues = resourcev1.ResourceSliceMaxAttributeValuesPerDevice
	if n := len(d.Attributes); n > mostValues {
		f.write(field.Invalid(at, n, fmt.Sprintf("the total number of attribute values must not exceed %d", mostValues)))
	}
	attributes := at.Child("attributes")
	for _, name := range sorted(d.Attributes) {
		f.write(qualifiedName(string(name), attributes)...)
		f.attribute(d.Attributes[name], attributes.Key(shortened(string(name))))
		f.oneValue(d.Attributes[name], attributes.Key(string(name)))
	}
	if old == nil || !equality.Semantic.DeepEqual(d.Capacity, old.Capacity) {
		f.write(capacities(d, at.Child("capacity"))...)
	}
	if taints := at.Child("taints"); len(d.Taints) > resourcev1.DeviceTaintsMaxLength {
		f.write(field.TooMany(taints, len(d.Taints), resourcev1.DeviceTaintsMaxLength))
	} else {
		for i, t := range d.Taints {
			f.deviceTaint(t, taints.Index(i))
		}
	}
	if at := at.Child("consumesCounters"); few(f, d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, at) {
		different(f, d.ConsumesCounters, func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet }, at)
		for i, c := range d.ConsumesCounters {
			f.counters(c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Index(i).Child("counterSet"), at.Index(i))
		}
	}
	f.write(deviceNodes(d, perDevice, at)...)
	f.write(bindingConditions(d.BindingConditions, d.BindingFailureConditions, at)...)
	f.fewConditions(d.BindingConditions, d.BindingFailureConditions, at)
}

// counters checks a set of counters, or what a device takes of one.
func (f *found) counters(name string, list map[string]resourcev1.Counter, most int, nameAt, at *field.Path) {
	if name == "" {
		f.declare(field.ErrorList{field.Required(nameAt, "")})
	} else {
		f.declare(byType(validate.ShortName[string], name, nameAt))
	}
	at = at.Child("counters")
	if len(list) == 0 {
		f.declare(field.ErrorList{field.Required(at, "")})
	}
	if len(list) > most {
		f.write(field.TooMany(at, len(list), most))
	}
	for _, key := range sorted(list) {
		f.declare(byType(validate.ShortName[string], key, at))
	}
}

// shortened is a name as it stands in the path of a field.
func shortened(name string) string {
	const most, cut = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength, "..."
	if len(name) <= most {
		return name
	}
	rest := most - len(cut)
	return name[:(rest+1)/2] + cut + name[len(name)-rest/2:]
}

// version is what semver.org has in version 2.0.0.
const version = `^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`

func (f *found) attribute(a resourcev1.DeviceAttribute, at *field.Path) {
	short := func(v string, at *field.Path) {
		if len(v) > resourcev1.DeviceAttributeMaxValueLength {
			f.write(field.TooLong(at, "" /* unused */, resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if v := a.StringValue; v != nil {
		short(*v, at.Child("string"))
	}
	if v := a.VersionValue; v != nil {
		at := at.Child("version")
		if !regexp.MustCompile(version).MatchString(*v) {
			f.write(field.Invalid(at, *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		short(*v, at)
	}
}

// attributeValues are the kinds of values that an attribute has one of. Those
// of lists are off by default.
var attributeValues = validate.NewUnionMembership(
	validate.NewUnionMember("int"), validate.NewUnionMember("bool"), validate.NewUnionMember("string"), validate.NewUnionMember("version"),
	validate.NewUnionMember("ints"), validate.NewUnionMember("bools"), validate.NewUnionMember("strings"), validate.NewUnionMember("versions"))

func (f *found) oneValue(a resourcev1.DeviceAttribute, at *field.Path) {
	has := func(set bool) validate.ExtractorFn[*resourcev1.DeviceAttribute, bool] {
		return func(*resourcev1.DeviceAttribute) bool { return set }
	}
	f.declare(validate.Union(gocontext.Background(), operation.Operation{}, at, &a, nil, attributeValues,
		has(a.IntValue != nil), has(a.BoolValue != nil), has(a.StringValue != nil), has(a.VersionValue != nil),
		has(false), has(false), has(false), has(false)))
}
