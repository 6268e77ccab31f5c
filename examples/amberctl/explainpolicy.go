package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/memstore"
)

func (a *app) policyExplainCommand() *cobra.Command {
	var (
		f policyFlags
		n int
	)
	cmd := &cobra.Command{
		Use:   "explain [POLICY] [flags]",
		Short: "Tell when the next backups start, and what looks like a mistake",
		Long: `Tell when the next backups start that a policy makes: by whose clock, within which window, and what happens when clocks are set
forward or back. With flags, as they would be if these were set; without POLICY, those of a new policy. Nothing is changed.`,
		Example: `  amberctl policy explain nightly
  amberctl policy explain --daily 02:30 --time-zone America/New_York --window 2h -n 10
  amberctl policy explain nightly --time-zone Europe/Berlin`,
		Args:              takes(0, 1, "POLICY"),
		ValidArgsFunction: a.completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 || n > schedule.MaxExplain {
				return usagef("-n %d: it has to be 1 to %d", n, schedule.MaxExplain)
			}
			if err := checkID(f.id); err != nil {
				return err
			}
			p := &schedule.Policy{ID: "new", DataStore: "any", Enabled: true} // which start within the window depends on the data store
			if len(args) == 0 && !f.given("cron", "days", "hours", "minute", "daily", "every", "save-schedule") {
				return usagef("POLICY is missing, or the flags of a new one, such as --daily 02:30")
			}
			svc, done, err := a.explainer(cmd, len(args) > 0)
			if err != nil {
				return err
			}
			defer done()
			if len(args) > 0 {
				if err := checkPolicy(args[0]); err != nil {
					return err
				}
				if p, err = svc.Policy(cmd.Context(), args[0]); err != nil {
					return explain(cmd.Context(), noPolicy(err), "explaining changes nothing")
				}
			}
			if err := f.apply(p, time.Now()); err != nil {
				return err
			}
			if err := p.Validate(limits); err != nil {
				return &usageError{err}
			}
			next, err := svc.ExplainPolicy(*p, n)
			if err != nil {
				return err
			}
			result := struct {
				Policy   *schedule.Policy       `json:"policy"`
				Warnings []string               `json:"warnings,omitempty"`
				Next     []schedule.Explanation `json:"next"`
			}{p, p.Warnings(), next}
			return a.print(result, func(w io.Writer) {
				fmt.Fprintf(w, "%s, %s: the next %s\n", whenText(p), zoneText(p), plural(int64(len(next)), "due time"))
				for _, e := range next {
					fmt.Fprintln(w, clean("  "+e.Text))
				}
				for _, text := range result.Warnings {
					fmt.Fprintln(w, clean("Beware: "+text+"."))
				}
			})
		},
	}
	f.add(cmd)
	cmd.Flags().IntVarP(&n, "count", "n", 5, "how many due times")
	return cmd
}

// explainer returns a service that can explain policies: one that keeps some, or for a new policy one that needs no store.
func (a *app) explainer(cmd *cobra.Command, stored bool) (*amber.Service, func(), error) {
	if stored {
		return a.service(cmd.Context(), amber.Config{})
	}
	svc, err := amber.New(amber.Config{Store: memstore.New(nil), Limits: limits})
	return svc, func() {}, err
}
