package s3store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

func TestParseURL(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("certificates"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]s3store.Config{
		"s3://b":            {Bucket: "b"},
		"s3://b/some/where": {Bucket: "b", Prefix: "some/where"},
		"s3://b/some/":      {Bucket: "b", Prefix: "some"},
		"s3://b?endpoint=localhost:9000&https=false&path_style=true&region=eu-west-1": {Bucket: "b", Endpoint: "localhost:9000", HTTP: true, Addressing: "path", Region: "eu-west-1"},
		"s3://b?path_style=0&sign_payload=false&ec2_metadata=true&preset=minio":       {Bucket: "b", Addressing: "virtual", Payload: "unsigned", EC2Metadata: true, Preset: "minio"},
		"s3://b?sign_payload=1&profile=p&role_arn=arn:x&web_identity_token_file=/t":   {Bucket: "b", Payload: "signed", Profile: "p", RoleARN: "arn:x", WebIdentityTokenFile: "/t"},
		"s3://b?storage_class=STANDARD_IA&sse=aws:kms&kms_key=k&checksum=crc32":       {Bucket: "b", StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKeyID: "k", Checksum: "crc32"},
		"s3://b?object_lock=compliance&retain=30d":                                    {Bucket: "b", ObjectLock: "COMPLIANCE", Retain: 30 * 24 * time.Hour},
		"s3://b?object_lock=GOVERNANCE&retain=90m&timeout=5s":                         {Bucket: "b", ObjectLock: "GOVERNANCE", Retain: 90 * time.Minute, Timeout: 5 * time.Second},
		"s3://b?part_size=16MiB&concurrency=5&exclusive=false":                        {Bucket: "b", PartSize: 16 << 20, Concurrency: 5, Exclusive: "no"},
		"s3://b?part_size=5242880&exclusive=true":                                     {Bucket: "b", PartSize: 5 << 20, Exclusive: "yes"},
		"s3://b?part_size=1GiB&exclusive=check&ca_bundle=" + ca:                       {Bucket: "b", PartSize: 1 << 30, Exclusive: "check", CABundle: []byte("certificates")},
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s3store.ParseURL(u); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v\n%#v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"s3:///prefix":                              "s3://bucket/prefix",
		"s3:bucket":                                 "s3://bucket/prefix",
		"gs://b":                                    "s3://bucket/prefix",
		"s3://b?use_path_style=true":                "there are ca_bundle, checksum, concurrency, ec2_metadata, endpoint, exclusive, https, kms_key, object_lock, part_size, path_style, preset, profile, region, retain, role_arn, sign_payload, sse, storage_class, timeout, web_identity_token_file",
		"s3://b?https=maybe":                        `"maybe" is neither true nor false`,
		"s3://b?region=a&region=b":                  "is there 2 times",
		"s3://b?retain=30":                          "such as 720h or 30d",
		"s3://b?retain=30d":                         "need each other",
		"s3://b?object_lock=governance":             "need each other",
		"s3://b?object_lock=forever&retain=1h":      "GOVERNANCE, COMPLIANCE",
		"s3://b?kms_key=k":                          "aws:kms",
		"s3://b?sse=rot13":                          "AES256",
		"s3://b?part_size=1MiB":                     "5 MiB",
		"s3://b?part_size=9GiB":                     "up to 5 GiB",
		"s3://b?part_size=many":                     "such as 16777216 or 16MiB",
		"s3://b?concurrency=few":                    "concurrency",
		"s3://b?concurrency=-1":                     "negative",
		"s3://b?exclusive=perhaps":                  "yes, no, check",
		"s3://b?checksum=rot13":                     "none, md5, crc32",
		"s3://b?ca_bundle=/does/not/exist":          "no such file",
		"s3://b?web_identity_token_file=/t":         "RoleARN",
		"s3://b?region=%zz":                         "well-formed",
		"s3://b/p#part":                             "fragment",
		"s3://CANARY-KEY:CANARY-SECRET@b":           "AWS_ACCESS_KEY_ID",
		"s3://CANARY-KEY@b":                         "AWS_ACCESS_KEY_ID",
		"s3://b?secret_access_key=CANARY":           "profile=",
		"s3://b?AWS_SECRET_ACCESS_KEY=CANARY":       "profile=",
		"s3://b?access-key=CANARY&secretKey=CANARY": "profile=",
		"s3://b?session_token=CANARY":               "AWS_SESSION_TOKEN",
		"s3://b?X-Amz-Signature=CANARY":             "AWS_SESSION_TOKEN",
		"s3://b?password=CANARY":                    "AWS_SESSION_TOKEN",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s3store.ParseURL(u)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", in, err, want)
		} else if strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error quotes a secret: %v", in, err)
		}
	}
}

func TestFromDragonfly(t *testing.T) {
	for _, c := range []struct {
		flags map[string]string
		want  s3store.Config
	}{
		{map[string]string{"dir": "s3://acme-backups"}, s3store.Config{Bucket: "acme-backups"}},
		{map[string]string{"dir": "s3://acme-backups/dragonfly/staging"}, s3store.Config{Bucket: "acme-backups", Prefix: "dragonfly/staging"}},
		{map[string]string{"dir": "s3://b", "s3_endpoint": "localhost:9000"}, s3store.Config{Bucket: "b", Endpoint: "localhost:9000"}},
		{map[string]string{"dir": "s3://b", "s3_endpoint": "localhost:9000", "s3_use_https": "false"}, s3store.Config{Bucket: "b", Endpoint: "localhost:9000", HTTP: true}},
		{map[string]string{"dir": "s3://b", "s3_endpoint": "https://h", "s3_use_https": "false"}, s3store.Config{Bucket: "b", Endpoint: "https://h"}},
		{map[string]string{"dir": "s3://b", "s3_sign_payload": "false", "s3_ec2_metadata": "true"}, s3store.Config{Bucket: "b", Payload: "unsigned", EC2Metadata: true}},
		{map[string]string{"dir": "s3://b", "s3_sign_payload": "true", "s3_ec2_metadata": "false", "s3_use_https": "true"}, s3store.Config{Bucket: "b", Payload: "signed"}},
	} {
		if got, err := s3store.FromDragonfly(c.flags); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %v, %v", c.flags, got, err)
		}
	}
	for want, flags := range map[string]map[string]string{
		"the flag dir":                       {"dir": "/var/lib/dragonfly"},
		"s3://bucket/prefix":                 {},
		"the flag dbfilename":                {"dir": "s3://b", "dbfilename": "dump"},
		"the flag s3_use_https: \"perhaps\"": {"dir": "s3://b", "s3_use_https": "perhaps"},
	} {
		if _, err := s3store.FromDragonfly(flags); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", flags, err, want)
		}
	}
}

// TestDragonflyStore: a Dragonfly user's flags, and the environment that goes with them, open a store that works.
func TestDragonflyStore(t *testing.T) {
	server := teststore.StartS3(t)
	t.Setenv("AWS_ACCESS_KEY_ID", teststore.S3AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", teststore.S3SecretKey)
	cfg, err := s3store.FromDragonfly(map[string]string{"dir": "s3://" + server.Bucket("acme-backups") + "/dragonfly/staging", "s3_endpoint": server.Addr,
		"s3_use_https": "false", "s3_sign_payload": "false"})
	if err != nil {
		t.Fatal(err)
	}
	works(t, open(t, cfg))
	if _, err := os.Stat(filepath.Join(server.Objects("acme-backups"), "dragonfly", "staging", "works")); err != nil {
		t.Error(err)
	}
}

// TestOpenURL: the same by URL, by way of package blobstore.
func TestOpenURL(t *testing.T) {
	server := teststore.StartS3(t)
	where := fmt.Sprintf("s3://%s/some/prefix?endpoint=%s&preset=minio", server.Bucket("by-url"), server.URL)
	s, err := blobstore.OpenURL(t.Context(), where, s3store.Opener{Config: func(c *s3store.Config) {
		c.AccessKeyID, c.SecretAccessKey = teststore.S3AccessKey, teststore.S3SecretKey
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	works(t, s)
	if _, err := blobstore.OpenURL(t.Context(), where+"&tls=off", s3store.Opener{}); err == nil || !strings.Contains(err.Error(), `no parameter "tls"`) {
		t.Error(err)
	}
}

// works writes an object, and reads it.
func works(t testing.TB, s storage.Store) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, "works", []byte("it works"), nil); err != nil {
		t.Error(err)
		return
	}
	if data, err := storage.ReadFile(t.Context(), s, "works", 100); err != nil || string(data) != "it works" {
		t.Errorf("%q, %v", data, err)
	}
}

// facts returns what a store tells of itself.
func facts(s storage.Store) map[string]string {
	m := map[string]string{}
	for _, f := range storage.DescriberOf(s).Describe(context.Background()) {
		m[f.Name] = f.Value
	}
	return m
}

// TestWhere: the endpoint, the region and the way of addressing, of every source of them and every preset. Nothing is sent anywhere.
func TestWhere(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "config")
	text := "[default]\nregion = eu-shared-1\n[profile other]\nregion = eu-other-1\nendpoint_url = https://s3.other.example\n"
	if err := os.WriteFile(shared, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		cfg  s3store.Config
		want string // endpoint, region, addressing, exclusive create; or the error
	}{
		"AWS, of the config":              {nil, s3store.Config{Region: "eu-west-1"}, "AWS's for the region|eu-west-1|virtual host|yes, by If-None-Match"},
		"AWS_REGION":                      {map[string]string{"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-3"}, s3store.Config{}, "AWS's for the region|eu-west-2|virtual host|yes, by If-None-Match"},
		"AWS_DEFAULT_REGION":              {map[string]string{"AWS_DEFAULT_REGION": "eu-west-3"}, s3store.Config{}, "AWS's for the region|eu-west-3|virtual host|yes, by If-None-Match"},
		"the shared file":                 {map[string]string{"AWS_CONFIG_FILE": shared}, s3store.Config{}, "AWS's for the region|eu-shared-1|virtual host|yes, by If-None-Match"},
		"the config before the rest":      {map[string]string{"AWS_CONFIG_FILE": shared, "AWS_REGION": "eu-west-2"}, s3store.Config{Region: "x-1"}, "AWS's for the region|x-1|virtual host|yes, by If-None-Match"},
		"a profile with an endpoint":      {map[string]string{"AWS_CONFIG_FILE": shared}, s3store.Config{Profile: "other"}, "https://s3.other.example|eu-other-1|path|by If-None-Match, which the first such create checks"},
		"AWS_PROFILE":                     {map[string]string{"AWS_CONFIG_FILE": shared, "AWS_PROFILE": "other"}, s3store.Config{}, "https://s3.other.example|eu-other-1|path|by If-None-Match, which the first such create checks"},
		"no such profile":                 {map[string]string{"AWS_CONFIG_FILE": shared}, s3store.Config{Profile: "missing"}, "missing"},
		"AWS_ENDPOINT_URL_S3":             {map[string]string{"AWS_ENDPOINT_URL_S3": "http://localhost:1"}, s3store.Config{}, "http://localhost:1|us-east-1|path|by If-None-Match, which the first such create checks"},
		"AWS_ENDPOINT_URL of Google":      {map[string]string{"AWS_ENDPOINT_URL": "https://storage.googleapis.com", "AWS_REGION": "eu-west-2"}, s3store.Config{}, "https://storage.googleapis.com|auto|path|no"},
		"nothing":                         {nil, s3store.Config{}, "no region: set it"},
		"an endpoint":                     {nil, s3store.Config{Endpoint: "localhost:9000"}, "https://localhost:9000|us-east-1|path|by If-None-Match, which the first such create checks"},
		"an endpoint, HTTP":               {nil, s3store.Config{Endpoint: "localhost:9000", HTTP: true, Addressing: "virtual"}, "http://localhost:9000|us-east-1|virtual host|by If-None-Match, which the first such create checks"},
		"an endpoint of AWS":              {nil, s3store.Config{Endpoint: "https://s3.eu-west-1.amazonaws.com"}, "https://s3.eu-west-1.amazonaws.com|eu-west-1|virtual host|yes, by If-None-Match"},
		"an endpoint that is none":        {nil, s3store.Config{Endpoint: "http://"}, "no host"},
		"an endpoint with a secret":       {nil, s3store.Config{Endpoint: "https://CANARY:CANARY@host"}, "name or password"},
		"an endpoint of FTP":              {nil, s3store.Config{Endpoint: "ftp://host"}, "http or https"},
		"HTTPS both on and off":           {nil, s3store.Config{Endpoint: "https://host", HTTP: true}, "turned off"},
		"MinIO":                           {map[string]string{"AWS_REGION": "eu-west-2"}, s3store.Config{Preset: "minio", Endpoint: "http://minio:9000"}, "http://minio:9000|eu-west-2|path|by If-None-Match, which the first such create checks"},
		"MinIO that is nowhere":           {nil, s3store.Config{Preset: "minio"}, "no endpoint"},
		"Ceph":                            {nil, s3store.Config{Preset: "ceph", Endpoint: "https://rgw", Exclusive: "yes"}, "https://rgw|us-east-1|path|yes, by If-None-Match"},
		"R2":                              {map[string]string{"AWS_REGION": "eu-west-2"}, s3store.Config{Endpoint: "https://0a1b.r2.cloudflarestorage.com"}, "https://0a1b.r2.cloudflarestorage.com|auto|path|yes, by If-None-Match"},
		"R2 by name, without the account": {nil, s3store.Config{Preset: "r2"}, "no endpoint"},
		"GCS":                             {map[string]string{"AWS_REGION": "eu-west-2"}, s3store.Config{Preset: "gcs"}, "https://storage.googleapis.com|auto|path|no"},
		"Wasabi":                          {nil, s3store.Config{Preset: "wasabi", Region: "eu-central-1"}, "https://s3.eu-central-1.wasabisys.com|eu-central-1|path|by If-None-Match, which the first such create checks"},
		"Wasabi by its host":              {map[string]string{"AWS_REGION": "eu-west-2"}, s3store.Config{Endpoint: "s3.eu-central-2.wasabisys.com"}, "https://s3.eu-central-2.wasabisys.com|eu-central-2|path|by If-None-Match, which the first such create checks"},
		"Wasabi without a region":         {nil, s3store.Config{Preset: "wasabi"}, "no region: Wasabi is at"},
		"B2":                              {nil, s3store.Config{Endpoint: "s3.us-west-004.backblazeb2.com"}, "https://s3.us-west-004.backblazeb2.com|us-west-004|path|no"},
		"DigitalOcean":                    {nil, s3store.Config{Preset: "digitalocean", Region: "nyc3"}, "https://nyc3.digitaloceanspaces.com|nyc3|virtual host|by If-None-Match, which the first such create checks"},
		"Scaleway":                        {nil, s3store.Config{Preset: "scaleway", Region: "fr-par"}, "https://s3.fr-par.scw.cloud|fr-par|virtual host|yes, by If-None-Match"},
		"Hetzner":                         {nil, s3store.Config{Endpoint: "fsn1.your-objectstorage.com"}, "https://fsn1.your-objectstorage.com|fsn1|path|by If-None-Match, which the first such create checks"},
		"OVHcloud":                        {nil, s3store.Config{Preset: "ovh", Region: "gra"}, "https://s3.gra.io.cloud.ovh.net|gra|virtual host|no"},
		"a preset that there isn't":       {nil, s3store.Config{Preset: "azure"}, "there are aws, b2, ceph, digitalocean, gcs, hetzner, minio, ovh, r2, scaleway, wasabi"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			c.cfg.Bucket, c.cfg.AccessKeyID, c.cfg.SecretAccessKey = "b", "AKIAEXAMPLE12345", "CANARY-SECRET"
			s, err := s3store.New(t.Context(), c.cfg)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				defer s.Close()
				f := facts(s)
				got = f["endpoint"] + "|" + f["region"] + "|" + f["addressing"] + "|" + f["exclusive create"]
				if f["access key"] != "AKIA…2345" || f["credentials"] != "given by the host" {
					t.Errorf("%q", f)
				}
				if want := !strings.HasSuffix(c.want, "|no"); s.Capabilities().Exclusive != want {
					t.Errorf("exclusive: %v, want %v", s.Capabilities().Exclusive, want)
				}
			}
			if !strings.Contains(got, c.want) || err == nil && got != c.want || strings.Contains(got, "CANARY") {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

// TestNoSecrets: a Config doesn't tell its secrets, however it is printed.
func TestNoSecrets(t *testing.T) {
	cfg := s3store.Config{Bucket: "b", AccessKeyID: "AKIA", SecretAccessKey: "CANARY-SECRET", SessionToken: "CANARY-TOKEN"}
	var out bytes.Buffer
	for _, p := range []any{cfg, &cfg, []s3store.Config{cfg}, errors.New(cfg.String())} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %d\n", p, p, p, p, p, p)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "config", cfg)
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "config", cfg)
	if err := json.NewEncoder(&out).Encode(cfg); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "CANARY") {
		t.Errorf("%s", out.String())
	}
}

// TestDependencies: whoever imports this package gets nothing of the other clouds.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	aws := 0
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "github.com/aws/aws-sdk-go-v2/"):
			aws++
		case strings.HasPrefix(line, "cloud.google.com/go/storage"), strings.HasPrefix(line, "github.com/Azure/"), strings.Contains(line, "/gcsblob"), strings.Contains(line, "/azureblob"):
			t.Errorf("it links %s", line)
		}
	}
	if aws == 0 {
		t.Errorf("the list has nothing of AWS:\n%s", out)
	}
}
