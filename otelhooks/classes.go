package otelhooks

import (
	"context"
	"errors"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
)

// errorType says of what sort an error is, in one of a few words; empty for nil. What an error was caused by comes before what came of that.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	for _, class := range []struct {
		name string
		errs []error
	}{
		{"lease_lost", []error{catalog.ErrLeaseLost}},
		{"cancelled", []error{context.Canceled}},
		{"busy", []error{backup.ErrBusy, catalog.ErrHeld}},
		{"not_sound", []error{backup.ErrNotSound}},
		{"not_verified", []error{restore.ErrNotVerified, catalog.ErrCorrupt}},
		{"refused", []error{restore.ErrNotEmpty, restore.ErrRefused, restore.ErrNotAccepted, backup.ErrDiffers}},
		{"store", []error{backup.ErrStore}},
		{"source", []error{backup.ErrSource}},
		{"not_found", []error{catalog.ErrNotFound}},
	} {
		for _, is := range class.errs {
			if errors.Is(err, is) {
				return class.name
			}
		}
	}
	return other
}

// kind is that of a backup, if it is one of those that this version knows: a manifest may be of a later one.
func kind(k catalog.Kind) string {
	switch k {
	case catalog.KindManual, catalog.KindAutomatic, catalog.KindShutdown, catalog.KindSafety, catalog.KindImport, catalog.KindCopy:
		return string(k)
	}
	return other
}
