// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// expressions compiles the CEL of one object.
type expressions struct {
	compiler plugincel.Compiler
	params   bool     // there are parameters to speak of
	patches  bool     // and types of patches
	old      []string // what was stored before may use what new ones may not
}

// stateless compiles what knows of no variables of its own. Its environment
// is the library's, made once for the process.
func stateless() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
}

// composing compiles what may use variables.
func composing() (plugincel.Compiler, error) {
	return plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
}

func (e expressions) mode(expression string) environment.Type {
	if slices.Contains(e.old, expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// check compiles an expression; stored is how it is written in the object.
func (e expressions) check(a plugincel.ExpressionAccessor, stored string, authorizer bool, at *field.Path) field.ErrorList {
	declared := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: authorizer, HasPatchTypes: e.patches}
	if err := e.compiler.CompileCELExpression(a, declared, e.mode(stored)).Error; err != nil {
		return field.ErrorList{wrongExpression(err, a.GetExpression(), at)}
	}
	return nil
}

// wrongExpression is what the compiler says, of a field.
func wrongExpression(err error, expression string, at *field.Path) *field.Error {
	said, ok := errors.AsType[*cel.Error](err)
	if !ok {
		return field.InternalError(at, fmt.Errorf("unsupported error type: %w", err))
	}
	switch said.Type {
	case cel.ErrorTypeRequired:
		return field.Required(at, said.Detail)
	case cel.ErrorTypeInvalid:
		return field.Invalid(at, expression, said.Detail)
	}
	return field.InternalError(at, said)
}

const maxMatchConditions = 64

func matchConditions(conditions []admissionv1.MatchCondition, e expressions, at *field.Path) (errs field.ErrorList) {
	if len(conditions) == 0 {
		return nil
	}
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(at, len(conditions), maxMatchConditions))
	}
	e.compiler, e.patches = stateless(), false
	var names unique
	for i, c := range conditions {
		at := at.Index(i)
		if expression := strings.TrimSpace(c.Expression); expression == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, e.check(&matchconditions.MatchCondition{Expression: expression}, expression, true, at.Child("expression"))...)
		}
		errs = append(errs, requiredAnd(c.Name, at.Child("name"), validation.IsQualifiedName)...)
		if c.Name != "" {
			errs = append(errs, names.add(c.Name, at.Child("name"))...)
		}
	}
	return errs
}
