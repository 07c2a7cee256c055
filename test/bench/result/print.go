// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes one line for each measure of a part and subject.
func (p *Part) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	fmt.Fprintln(t, "goal\tmeasure\tunit\t\tn\tp50\tp90\tp99\t")
	all := set(p.Measurements)
	for _, row := range all.order() {
		samples := all.of(row.same).samples()
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t\n", row.Goal, row.title(), row.Unit, row.Subject, len(samples),
			Figure(Quantile(samples, median)), Figure(Quantile(samples, 0.9)), Figure(Quantile(samples, 0.99)))
	}
	t.Flush()
}
