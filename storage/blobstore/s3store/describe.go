package s3store

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// describe tells how the bucket is reached, and as whom.
func (d *driver) describe(ctx context.Context) []storage.Fact {
	var facts []storage.Fact
	tell := func(name, value string) {
		if value != "" {
			facts = append(facts, storage.Fact{Name: name, Value: value})
		}
	}
	tell("bucket", d.cfg.Bucket)
	service := d.preset.What
	if d.preset.Name != "" {
		service += " (preset " + d.preset.Name + ")"
	}
	tell("service", service)
	if d.endpoint != "" {
		tell("endpoint", d.endpoint)
	} else {
		tell("endpoint", "AWS's for the region")
	}
	tell("region", d.aws.Region)
	if d.virtual {
		tell("addressing", "virtual host")
	} else {
		tell("addressing", "path")
	}
	switch c, err := d.aws.Credentials.Retrieve(ctx); {
	case err != nil:
		tell("credentials", "none: "+err.Error())
	default:
		tell("credentials", sourceOf(c))
		tell("access key", shortened(c.AccessKeyID))
		tell("account", c.AccountID)
		if c.CanExpire {
			tell("credentials expire", c.Expires.UTC().Format(time.RFC3339)+", in "+c.Expires.Sub(clock.System()).Round(time.Second).String()+", and are renewed before")
		}
	}
	switch d.cfg.Payload {
	case "":
		tell("payload", "signed over HTTP, unsigned over HTTPS")
	default:
		tell("payload", d.cfg.Payload)
	}
	tell("checksum of uploads", d.cfg.Checksum)
	switch {
	case d.cfg.Exclusive == "no":
		tell("exclusive create", "no")
	case d.ignored.Load() != nil:
		tell("exclusive create", "no: the service ignores If-None-Match")
	case d.heeded.Load():
		tell("exclusive create", "yes, by If-None-Match")
	default:
		tell("exclusive create", "by If-None-Match, which the first such create checks")
	}
	tell("storage class", d.cfg.StorageClass)
	tell("encryption by the service", strings.TrimSpace(d.cfg.SSE+" "+d.cfg.KMSKeyID))
	if d.cfg.ObjectLock != "" {
		tell("object lock", d.cfg.ObjectLock+" for "+d.cfg.Retain.String())
	}
	return facts
}

// sources are the SDK's names for where credentials come from.
var sources = []struct{ name, words string }{
	{"EnvConfigCredentials", "the environment (AWS_ACCESS_KEY_ID)"},
	{"SharedConfigCredentials", "a shared file"},
	{"StaticCredentials", "given by the host"},
	{"WebIdentityCredentials", "a web identity, by STS"},
	{"AssumeRoleProvider", "an assumed role, by STS"},
	{"CredentialsEndpointProvider", "the container's endpoint"},
	{"EC2RoleProvider", "the metadata of the EC2 instance"},
	{"SSOProvider", "single sign-on"},
	{"ProcessProvider", "the profile's credential_process"},
}

// sourceOf says where credentials came from.
func sourceOf(c aws.Credentials) string {
	for _, s := range sources {
		if rest, ok := strings.CutPrefix(c.Source, s.name); ok {
			return s.words + rest
		}
	}
	if c.Source == "" {
		return "given by the host"
	}
	return c.Source
}

// keyID is the access key that was used last, shortened.
func (d *driver) keyID() string {
	if id := d.last.Load(); id != nil {
		return *id
	}
	return ""
}

// shortened leaves enough of an access key to tell it from others.
func shortened(id string) string {
	if len(id) < 12 {
		return id[:len(id)/3] + "…"
	}
	return id[:4] + "…" + id[len(id)-4:]
}
