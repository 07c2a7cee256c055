// SPDX-License-Identifier: Apache-2.0

package validation

import (
	gocontext "context"
	"encoding/json"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"
)

// found are the errors in an object of resource.k8s.io, in the order in which
// Kubernetes tells them: those that it finds by hand, then those that it finds
// by rules generated from its types.
type found struct{ written, declared field.ErrorList }

func (f *found) write(errs ...*field.Error)   { f.written = append(f.written, errs...) }
func (f *found) declare(errs field.ErrorList) { f.declared = append(f.declared, errs...) }
func (f *found) all() field.ErrorList         { return reported(f.written, f.declared) }

// byType applies a rule that types are marked with.
func byType[T any](rule func(gocontext.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList, v T, at *field.Path) field.ErrorList {
	return rule(gocontext.Background(), operation.Operation{}, at, &v, nil)
}

// few refuses a list that is too long; nothing in it is looked at then.
func few[T any](f *found, list []T, most int, at *field.Path) bool {
	if len(list) > most {
		f.declare(field.ErrorList{field.TooMany(at, len(list), most)})
		return false
	}
	return true
}

// different refuses the second item of each key.
func different[T any, K comparable](f *found, list []T, key func(T) K, at *field.Path) {
	seen := map[K]bool{}
	for i, item := range list {
		if seen[key(item)] {
			f.declare(field.ErrorList{field.Duplicate(at.Index(i), item)})
		}
		seen[key(item)] = true
	}
}

func itself[T any](v T) T { return v }

func label(name string, at *field.Path) field.ErrorList {
	return invalidAll(at, name, validation.IsDNS1123Label(name))
}

func labelValue(v string, at *field.Path) field.ErrorList {
	return invalidAll(at, v, validation.IsValidLabelValue(v))
}

// declaredDriver is driverName where the type says it.
func declaredDriver(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := byType(validate.LongNameCaseless[string], name, at)
	if len(name) > longestDriver {
		errs = append(errs, field.TooLongCharacters(at, "" /* unused */, longestDriver))
	}
	return errs
}

func poolName(name string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(at, "" /* unused */, resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, invalidAll(at, part, validation.IsDNS1123Subdomain(part))...)
	}
	return errs
}

// qualifiedName is that of an attribute or capacity, with the domain of its
// maker or without.
func qualifiedName(name string, at *field.Path) (errs field.ErrorList) {
	id := func(id string) {
		if len(id) > resourcev1.DeviceMaxIDLength {
			errs = append(errs, field.TooLong(at, "" /* unused */, resourcev1.DeviceMaxIDLength))
		}
		errs = append(errs, invalidAll(at, id, content.IsCIdentifier(id))...)
	}
	switch parts := strings.Split(name, "/"); len(parts) {
	case 1:
		id(parts[0])
	case 2:
		if parts[0] == "" {
			errs = append(errs, field.Invalid(at, "", "the domain must not be empty"))
		} else {
			errs = append(errs, driverName(parts[0], at)...)
		}
		if parts[1] == "" {
			errs = append(errs, field.Invalid(at, "", "the name must not be empty"))
		} else {
			id(parts[1])
		}
	}
	return errs
}

// selectors checks the expressions that devices are chosen by; what was stored
// before is not compiled again.
func (f *found) selectors(list []resourcev1.DeviceSelector, stored bool, at *field.Path) {
	if !few(f, list, resourcev1.DeviceSelectorsMaxSize, at) {
		return
	}
	for i, s := range list {
		at := at.Index(i).Child("cel")
		switch {
		case s.CEL == nil:
			f.write(field.Required(at, ""))
		case !stored:
			f.write(deviceExpression(s.CEL.Expression, at.Child("expression"))...)
		}
	}
}

// deviceExpression compiles a selector. The compiler is made when the first is
// asked for.
func deviceExpression(expression string, at *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "" /* unused */, resourcev1.CELSelectorExpressionMaxLength)}
	}
	mode := environment.NewExpressions
	compiled := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, cel.Options{EnvType: &mode})
	switch {
	case compiled.Error != nil:
		return field.ErrorList{wrongExpression(compiled.Error, expression, at)}
	case compiled.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return nil
}

// configuration checks what a driver is told.
func (f *found) configuration(c resourcev1.DeviceConfiguration, stored bool, at *field.Path) {
	at = at.Child("opaque")
	if c.Opaque == nil {
		f.write(field.Required(at, ""))
		return
	}
	f.declare(declaredDriver(c.Opaque.Driver, at.Child("driver")))
	most := resourcev1.OpaqueParametersMaxLength
	if stored {
		most = len(c.Opaque.Parameters.Raw)
	}
	f.write(rawObject(c.Opaque.Parameters, most, at.Child("parameters"))...)
}

// rawObject checks that something is a JSON object.
func rawObject(raw runtime.RawExtension, most int, at *field.Path) field.ErrorList {
	if len(raw.Raw) > most {
		return field.ErrorList{field.TooLong(at, "" /* unused */, most)}
	}
	var v any
	if len(raw.Raw) > 0 {
		if err := json.Unmarshal(raw.Raw, &v); err != nil {
			return field.ErrorList{field.Invalid(at, "<value omitted>", "error parsing data as JSON: "+err.Error())}
		}
	}
	if v == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

// bindingConditions checks what a device's driver tells before a Pod is bound:
// names, each once, and both kinds or none.
func bindingConditions(good, bad []string, at *field.Path) (errs field.ErrorList) {
	goodAt, badAt := at.Child("bindingConditions"), at.Child("bindingFailureConditions")
	names := func(list []string, most int, at *field.Path) {
		if len(list) > most {
			return // the type says so
		}
		for i, c := range list {
			errs = append(errs, metavalidation.ValidateLabelName(c, at.Index(i))...)
		}
	}
	names(good, resourcev1.BindingConditionsMaxSize, goodAt)
	names(bad, resourcev1.BindingFailureConditionsMaxSize, badAt)
	of, other := &unique{}, &unique{}
	for i, c := range good {
		errs = append(errs, of.add(c, goodAt.Index(i))...)
	}
	for i, c := range bad {
		errs = append(errs, other.add(c, badAt.Index(i))...)
		if of.seen.Has(c) {
			errs = append(errs, field.Invalid(badAt.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(good) == 0 && len(bad) > 0 {
		errs = append(errs, field.Invalid(goodAt, good, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(bad) == 0 && len(good) > 0 {
		errs = append(errs, field.Invalid(badAt, bad, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

// fewConditions is the part of bindingConditions that the type says.
func (f *found) fewConditions(good, bad []string, at *field.Path) {
	few(f, good, resourcev1.BindingConditionsMaxSize, at.Child("bindingConditions"))
	few(f, bad, resourcev1.BindingFailureConditionsMaxSize, at.Child("bindingFailureConditions"))
}

var deviceEffects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func (f *found) deviceTaint(t resourcev1.DeviceTaint, at *field.Path) {
	f.write(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	f.write(labelValue(t.Value, at.Child("value"))...)
	f.declare(oneOf(t.Effect, at.Child("effect"), deviceEffects...))
}

func (f *found) deviceToleration(t resourcev1.DeviceToleration, at *field.Path) {
	switch value := at.Child("value"); t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			f.write(field.Invalid(value, t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		f.write(labelValue(t.Value, value)...)
	}
	if t.Key != "" {
		f.declare(byType(validate.LabelKey[string], t.Key, at.Child("key")))
	}
	f.declare(oneOf(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists))
	if t.Effect != "" {
		f.declare(supported(t.Effect, at.Child("effect"), deviceEffects...))
	}
}

func (f *found) deviceTolerations(list []resourcev1.DeviceToleration, at *field.Path) {
	for i, t := range list {
		f.deviceToleration(t, at.Index(i))
	}
}

// nameByType leaves the name of an object to the rules of its type.
func nameByType(_ string, _ bool) []string { return nil }

// DeviceTaintRule checks a rule that taints devices.
func DeviceTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	return append(meta(&r.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), deviceTaintRuleSpec(&r.Spec)...)
}

// DeviceTaintRuleUpdate checks a change.
func DeviceTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	return append(metaUpdate(&r.ObjectMeta, &old.ObjectMeta), deviceTaintRuleSpec(&r.Spec)...)
}

func deviceTaintRuleSpec(s *resourcev1.DeviceTaintRuleSpec) field.ErrorList {
	f := &found{}
	if d, at := s.DeviceSelector, spec.Child("deviceSelector"); d != nil {
		if d.Driver != nil {
			f.write(driverName(*d.Driver, at.Child("driver"))...)
		}
		if d.Pool != nil {
			f.write(poolName(*d.Pool, at.Child("pool"))...)
		}
		if d.Device != nil {
			f.write(label(*d.Device, at.Child("device"))...)
		}
	}
	f.deviceTaint(s.Taint, spec.Child("taint"))
	return f.all()
}

// DeviceTaintRuleStatusUpdate checks what is told of the work of a rule.
func DeviceTaintRuleStatusUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	at := field.NewPath("status", "conditions")
	errs := append(metaUpdate(&r.ObjectMeta, &old.ObjectMeta), metavalidation.ValidateConditions(r.Status.Conditions, at)...)
	if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
		errs = append(errs, field.TooMany(at, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
	}
	return errs
}
