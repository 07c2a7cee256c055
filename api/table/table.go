// SPDX-License-Identifier: Apache-2.0

// Package table owns the columns that `kubectl get` shows: for each kind the
// definitions and the cells, as the printers of Kubernetes 1.37 give them. It
// does not own the Table envelope; the API server makes that.
package table

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Columns says how one kind is printed. Cells gives one cell per definition;
// cells of columns with a priority above 0 are shown by -o wide only.
type Columns[T any] struct {
	Definitions []metav1.TableColumnDefinition
	Cells       func(obj *T, now time.Time) []any
	// Conditions mark a row, as finished Pods are; may be nil.
	Conditions func(obj *T) []metav1.TableRowCondition
	// Listed changes cells of an object that is shown in a list; may be nil.
	Listed func(all []*T) func(obj *T, cells []any)
}

const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// meta holds the published field descriptions of the columns every kind has.
func name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

func ageColumn() metav1.TableColumnDefinition {
	return text("Age", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

func text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

func number(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// wide moves a column behind -o wide.
func wide(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Priority = 1
	return c
}

// age is how long ago t was, as people read it.
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func joinOrNone(list []string) string { return orNone(strings.Join(list, ",")) }

// selector prints a label selector, or <none>.
func selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// equalitySelector prints a plain map of labels.
func equalitySelector(m map[string]string) string {
	return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: m})
}

func ratio(ready, total int) string { return fmt.Sprintf("%d/%d", ready, total) }
