package s3store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// Opener opens stores by URLs of the form s3://bucket/prefix?parameter=value&…; see package blobstore. ParseURL tells the parameters.
type Opener struct {
	// Config, if set, may add what a URL doesn't hold, such as credentials of the host's own.
	Config func(*Config)
}

// Scheme is "s3".
func (Opener) Scheme() string { return "s3" }

// OpenURL opens a store.
func (o Opener) OpenURL(ctx context.Context, u *url.URL) (storage.StoreCloser, error) {
	cfg, err := ParseURL(u)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", blobstore.ErrURL, err)
	}
	if o.Config != nil {
		o.Config(&cfg)
	}
	return New(ctx, cfg)
}

// parameters are those of a URL, each with what sets it in a Config.
var parameters = map[string]func(c *Config, v string) error{
	"preset":                  text(func(c *Config) *string { return &c.Preset }),
	"endpoint":                text(func(c *Config) *string { return &c.Endpoint }),
	"region":                  text(func(c *Config) *string { return &c.Region }),
	"profile":                 text(func(c *Config) *string { return &c.Profile }),
	"role_arn":                text(func(c *Config) *string { return &c.RoleARN }),
	"web_identity_token_file": text(func(c *Config) *string { return &c.WebIdentityTokenFile }),
	"checksum":                text(func(c *Config) *string { return &c.Checksum }),
	"storage_class":           text(func(c *Config) *string { return &c.StorageClass }),
	"sse":                     text(func(c *Config) *string { return &c.SSE }),
	"kms_key":                 text(func(c *Config) *string { return &c.KMSKeyID }),
	"https":                   truth(func(c *Config, v bool) { c.HTTP = !v }),
	"ec2_metadata":            truth(func(c *Config, v bool) { c.EC2Metadata = v }),
	"path_style":              truth(func(c *Config, v bool) { c.Addressing = either(v, "path", "virtual") }),
	"sign_payload":            truth(func(c *Config, v bool) { c.Payload = either(v, "signed", "unsigned") }),
	"exclusive": func(c *Config, v string) error {
		c.Exclusive = v
		if b, err := strconv.ParseBool(v); err == nil {
			c.Exclusive = either(b, "yes", "no")
		}
		return nil
	},
	"object_lock": func(c *Config, v string) error {
		c.ObjectLock = strings.ToUpper(v)
		return nil
	},
	"retain":  duration(func(c *Config) *time.Duration { return &c.Retain }),
	"timeout": duration(func(c *Config) *time.Duration { return &c.Timeout }),
	"part_size": func(c *Config, v string) (err error) {
		c.PartSize, err = size(v)
		return err
	},
	"concurrency": func(c *Config, v string) (err error) {
		c.Concurrency, err = strconv.Atoi(v)
		return err
	},
	"ca_bundle": func(c *Config, v string) (err error) {
		c.CABundle, err = os.ReadFile(v)
		return err
	},
}

// secrets are the parameters that people try, and that don't belong into a URL.
var secrets = []string{"access_key", "access_key_id", "accesskey", "accesskeyid", "aws_access_key_id", "secret", "secret_key", "secret_access_key", "secretkey",
	"secretaccesskey", "aws_secret_access_key", "session_token", "sessiontoken", "aws_session_token", "token", "password", "credentials"}

const noSecrets = "a URL ends up in logs and histories, so it takes no credentials: put them into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) or into a profile of ~/.aws/credentials (profile=…)"

// ParseURL makes a Config of s3://bucket/prefix?parameter=value&…
//
// The parameters have the names of the fields of Config: preset, endpoint, region, profile, role_arn, web_identity_token_file, storage_class, sse, kms_key,
// checksum (none, md5, crc32), exclusive (true, false, check), object_lock (governance, compliance) with retain (such as 720h, or 30d), timeout,
// part_size (such as 16MiB), concurrency, ca_bundle (a file), and true or false for https, path_style, sign_payload and ec2_metadata. Others are an error, and
// so are secrets.
func ParseURL(u *url.URL) (Config, error) {
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	bad := func(format string, args ...any) (Config, error) {
		return Config{}, fmt.Errorf("s3://%s: "+format, append([]any{u.Host}, args...)...)
	}
	switch {
	case u.User != nil:
		return bad(noSecrets)
	case u.Scheme != "s3" || u.Opaque != "" || u.Host == "":
		return Config{}, errors.New("a URL of a bucket looks like s3://bucket/prefix?region=…")
	case u.Fragment != "":
		return bad("it has a fragment (#)")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("its parameters aren't well-formed")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, ok := parameters[name]
		switch lower := strings.ToLower(strings.ReplaceAll(name, "-", "_")); {
		case slices.Contains(secrets, lower), strings.HasPrefix(lower, "x_amz_"):
			return bad("parameter %s: %s", name, noSecrets)
		case !ok:
			return bad("there is no parameter %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		case len(query[name]) > 1:
			return bad("parameter %s is there %d times", name, len(query[name]))
		}
		if err := set(&c, query[name][0]); err != nil {
			return bad("parameter %s: %w", name, err)
		}
	}
	if err := c.check(); err != nil {
		return bad("%w", err)
	}
	return c, nil
}

// FromDragonfly makes a Config of a Dragonfly server's flags, by their names without dashes: dir (s3://bucket or s3://bucket/prefix), s3_endpoint,
// s3_use_https, s3_sign_payload and s3_ec2_metadata. They mean what they mean there, and so do those that aren't given: HTTPS and no metadata. Others
// are an error.
func FromDragonfly(flags map[string]string) (Config, error) {
	u, err := url.Parse(flags["dir"])
	if err != nil || strings.ToLower(u.Scheme) != "s3" || u.RawQuery != "" {
		return Config{}, errors.New("the flag dir is not of the form s3://bucket/prefix")
	}
	c, err := ParseURL(u)
	if err != nil {
		return c, fmt.Errorf("the flag dir: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		parameter := map[string]string{"s3_endpoint": "endpoint", "s3_use_https": "https", "s3_sign_payload": "sign_payload", "s3_ec2_metadata": "ec2_metadata"}[name]
		switch {
		case name == "dir":
		case parameter == "":
			return Config{}, fmt.Errorf("the flag %s has nothing to do with S3; dir, s3_endpoint, s3_use_https, s3_sign_payload and s3_ec2_metadata have", name)
		default:
			if err := parameters[parameter](&c, flags[name]); err != nil {
				return Config{}, fmt.Errorf("the flag %s: %w", name, err)
			}
		}
	}
	// There the scheme of the endpoint, if it has one, has the last word.
	if strings.HasPrefix(c.Endpoint, "https://") {
		c.HTTP = false
	}
	return c, c.check()
}

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*field(c) = v
		return nil
	}
}

func truth(set func(*Config, bool)) func(*Config, string) error {
	return func(c *Config, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		set(c, b)
		return nil
	}
}

func either(v bool, yes, no string) string {
	if v {
		return yes
	}
	return no
}

func duration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		if days, ok := strings.CutSuffix(v, "d"); ok {
			n, err := strconv.ParseUint(days, 10, 16)
			if err != nil {
				return fmt.Errorf("%q is no time, such as 720h or 30d", v)
			}
			*field(c) = time.Duration(n) * 24 * time.Hour
			return nil
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%q is no time, such as 720h or 30d", v)
		}
		*field(c) = d
		return nil
	}
}

// size reads a number of bytes, such as 16777216 or 16MiB.
func size(v string) (int64, error) {
	number, unit := strings.TrimSuffix(v, "B"), int64(1)
	for i, u := range []string{"Ki", "Mi", "Gi"} {
		if n, ok := strings.CutSuffix(number, u); ok {
			number, unit = n, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no size, such as 16777216 or 16MiB", v)
	}
	return n * unit, nil
}
