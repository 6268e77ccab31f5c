package redact_test

import (
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/redact"
)

func TestString(t *testing.T) {
	long := strings.Repeat("long-secret-", 20)
	for _, test := range []struct {
		text    string
		secrets []string
		want    string
	}{
		{"ERR unknown command 'AUTH', with args beginning with: 'amber' 'CANARY-1' ", []string{"CANARY-1"}, "ERR unknown command 'AUTH', with args beginning with: 'amber' '***' "},
		{"CANARY-1CANARY-1 and CANARY-1", []string{"CANARY-1"}, "****** and ***"},
		{"cut: '" + long[:128] + "'", []string{long}, "cut: '***'"},
		{"line: a b cdefgh!", []string{"a\nb\rcdefgh"}, "line: ***!"},
		{"short pw here", []string{"pw"}, "short *** here"},
		{"one CANARY-1 two CANARY-2", []string{"CANARY-1", "", "CANARY-2"}, "one *** two ***"},
		{"nothing here", []string{"CANARY-1", ""}, "nothing here"},
		{"", []string{"CANARY-1"}, ""},
	} {
		if got := redact.String(test.text, test.secrets...); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}
