package target

import (
	"slices"
	"testing"
)

func TestModuleTypes(t *testing.T) {
	types, strangers := ModuleTypes([]string{"ReJSON", "bf", "lua", "mine", "vectorset"})
	want := []string{"CMSk-TYPE", "MBbloom--", "MBbloomCF", "ReJSON-RL", "TDIS-TYPE", "TopK-TYPE", "bloomfltr", "vectorset"}
	if !slices.Equal(types, want) || !slices.Equal(strangers, []string{"mine"}) {
		t.Errorf("the types are %q, want %q; not known are %q", types, want, strangers)
	}
	if types, strangers := ModuleTypes(nil); types == nil || len(types) > 0 || len(strangers) > 0 {
		t.Errorf("a server without modules has the types %#v, and %q are not known", types, strangers)
	}
}
