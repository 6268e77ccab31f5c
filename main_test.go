package amber_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

func TestMain(m *testing.M) {
	// Most of the tests with servers wait for what is slow on purpose.
	if err := testserver.MoreAtOnce(6); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
