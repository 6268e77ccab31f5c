package s3store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

const canary = "CANARY-SECRET-of-somebody"

// A fake speaks a protocol by which credentials are handed out, on loopback, and records what it was asked.
type fake struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func newFake(t *testing.T, handle func(w http.ResponseWriter, r *http.Request)) *fake {
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		handle(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// handedOut is the real server's key in the form in which containers and EC2 hand it out.
func handedOut(w http.ResponseWriter) {
	json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": teststore.S3AccessKey,
		"SecretAccessKey": teststore.S3SecretKey, "Token": "session-token", "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
}

// newIMDS is the metadata service of an EC2 instance, of version 2.
func newIMDS(t *testing.T) *fake {
	return newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			io.WriteString(w, "imds-token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token":
			http.Error(w, "no token", http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			io.WriteString(w, "the-role")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/the-role":
			handedOut(w)
		case r.URL.Path == "/latest/dynamic/instance-identity/document":
			io.WriteString(w, `{"region": "eu-metal-1"}`)
		case r.URL.Path == "/latest/meta-data/placement/region":
			io.WriteString(w, "eu-metal-1")
		default:
			http.NotFound(w, r)
		}
	})
}

// newSTS is the token service. It gives the real server's key for a role, with a web identity's token or another key's signature.
func newSTS(t *testing.T) *fake {
	return newFake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		action := form.Get("Action")
		switch {
		case form.Get("RoleArn") != "arn:aws:iam::123456789012:role/backup",
			action == "AssumeRoleWithWebIdentity" && form.Get("WebIdentityToken") != "the-token-of-the-pod",
			action == "AssumeRole" && !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIABASE/"):
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized to perform sts:%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, action)
			return
		}
		fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId><SecretAccessKey>%[3]s</SecretAccessKey><SessionToken>session-token</SessionToken><Expiration>%[4]s</Expiration></Credentials><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/backup/x</Arn><AssumedRoleId>A:x</AssumedRoleId></AssumedRoleUser></%[1]sResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>`,
			action, teststore.S3AccessKey, teststore.S3SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
}

// TestCredentials: with each source of credentials an object is written to a real server and read from it, and the store tells which source it
// was. The server's key has no session token; where a source gives one, the proxy proves the signature, which holds for the token, and takes it off. Whether a metadata service is asked that nobody turned on, one counts by itself.
func TestCredentials(t *testing.T) {
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	record.change = withoutToken
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shared := file("credentials", fmt.Sprintf("[default]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = %s\n[backups]\naws_access_key_id = %s\naws_secret_access_key = %s\n[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = %[1]s\n",
		canary, teststore.S3AccessKey, teststore.S3SecretKey))
	assume := file("config", "[profile assume]\nrole_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = base\n[profile process]\ncredential_process = "+
		file("process", "#!/bin/sh\necho '{\"Version\": 1, \"AccessKeyId\": \""+teststore.S3AccessKey+"\", \"SecretAccessKey\": \""+teststore.S3SecretKey+"\"}'\n")+"\n")
	if err := os.Chmod(filepath.Join(dir, "process"), 0o700); err != nil {
		t.Fatal(err)
	}
	token := file("token", "the-token-of-the-pod")
	imds, sts := newIMDS(t), newSTS(t)
	container := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/credentials/x" || r.Header.Get("Authorization") != "container-token" {
			http.Error(w, `{"code": "AccessDenied", "message": "no"}`, http.StatusForbidden)
			return
		}
		handedOut(w)
	})
	const role = "arn:aws:iam::123456789012:role/backup"
	for name, c := range map[string]struct {
		env    map[string]string
		cfg    s3store.Config
		source string // of the facts
		token  string // the session token that is sent
		imds   bool
	}{
		"the environment, with a session token": {env: map[string]string{"AWS_ACCESS_KEY_ID": teststore.S3AccessKey, "AWS_SECRET_ACCESS_KEY": teststore.S3SecretKey, "AWS_SESSION_TOKEN": "session-token"},
			source: "the environment (AWS_ACCESS_KEY_ID)", token: "session-token"},
		"a shared file, AWS_PROFILE": {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": shared, "AWS_PROFILE": "backups"}, source: "a shared file: " + shared},
		"a shared file, Profile":     {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": shared}, cfg: s3store.Config{Profile: "backups"}, source: "a shared file: " + shared},
		"Profile before the environment": {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": shared, "AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": canary},
			cfg: s3store.Config{Profile: "backups"}, source: "a shared file: " + shared},
		"given": {cfg: s3store.Config{AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey}, source: "given by the host"},
		"a provider of the host's": {cfg: s3store.Config{Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey, Source: "the vault"}, nil
		})}, source: "the vault"},
		"a web identity, of the environment": {env: map[string]string{"AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": token}, source: "a web identity, by STS", token: "session-token"},
		"a web identity, of the config":      {cfg: s3store.Config{RoleARN: role, WebIdentityTokenFile: token}, source: "a web identity, by STS", token: "session-token"},
		"a role, by a key":                   {cfg: s3store.Config{RoleARN: role, AccessKeyID: "AKIABASE", SecretAccessKey: canary}, source: "an assumed role, by STS", token: "session-token"},
		"a role, by a profile": {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": shared, "AWS_CONFIG_FILE": assume}, cfg: s3store.Config{Profile: "assume"},
			source: "an assumed role, by STS", token: "session-token"},
		"a process": {env: map[string]string{"AWS_CONFIG_FILE": assume}, cfg: s3store.Config{Profile: "process"}, source: "the profile's credential_process"},
		"a container": {env: map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": container.URL + "/v2/credentials/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token"},
			source: "the container's endpoint", token: "session-token"},
		"EC2": {cfg: s3store.Config{EC2Metadata: true}, source: "the metadata of the EC2 instance", token: "session-token", imds: true},
		"EC2, although the environment turns it off": {env: map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}, cfg: s3store.Config{EC2Metadata: true},
			source: "the metadata of the EC2 instance", token: "session-token", imds: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.URL)
			t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
			t.Setenv("AWS_REGION", "us-east-1")
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			before := len(imds.requests())
			c.cfg.Bucket, c.cfg.Endpoint = server.Bucket(fmt.Sprintf("bucket-%d", time.Now().UnixNano())), record.URL
			s := open(t, c.cfg)
			works(t, s)
			if got := facts(s)["credentials"]; got != c.source {
				t.Errorf("the credentials come from %q, want %q", got, c.source)
			}
			for _, r := range record.take() {
				if got := r.header.Get("X-Amz-Security-Token"); got != c.token {
					t.Errorf("%s is sent with the session token %q, want %q", r.method, got, c.token)
				}
			}
			if asked := imds.requests()[before:]; (len(asked) > 0) != c.imds {
				t.Errorf("the metadata service was asked for %q", asked)
			}
		})
	}
}

// TestRegionOfEC2: the region comes from the metadata only if they are turned on.
func TestRegionOfEC2(t *testing.T) {
	imds := newIMDS(t)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.URL)
	s := open(t, s3store.Config{Bucket: "b", EC2Metadata: true})
	if got := facts(s); got["region"] != "eu-metal-1" || !strings.HasPrefix(got["credentials"], "the metadata") {
		t.Errorf("%q", got)
	}
}

// TestNoCredentials: without any, opening fails at once, says what may be done, and asks no metadata.
func TestNoCredentials(t *testing.T) {
	imds := newIMDS(t)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.URL)
	began := time.Now()
	_, err := s3store.New(t.Context(), s3store.Config{Bucket: "b", Region: "us-east-1"})
	if err == nil || !strings.Contains(err.Error(), "no credentials") || !strings.Contains(err.Error(), "AWS_PROFILE") {
		t.Error(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	if asked := imds.requests(); len(asked) != 0 {
		t.Errorf("the metadata service was asked for %q", asked)
	}

	// A source that refuses is told, and none of its secrets.
	sts := newSTS(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	_, err = s3store.New(t.Context(), s3store.Config{Bucket: "b", Region: "us-east-1", RoleARN: "arn:aws:iam::123456789012:role/other", AccessKeyID: "AKIABASE", SecretAccessKey: canary})
	if err == nil || !strings.Contains(err.Error(), "Not authorized to perform sts:AssumeRole") || strings.Contains(fmt.Sprintf("%+v", err), canary) {
		t.Error(err)
	}

	// One that answers with nothing, too.
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := newFake(t, func(http.ResponseWriter, *http.Request) {})
	t.Setenv("AWS_ENDPOINT_URL_STS", empty.URL)
	for _, cfg := range []s3store.Config{
		{Bucket: "b", Region: "us-east-1", RoleARN: "arn:aws:iam::123456789012:role/backup", AccessKeyID: "AKIABASE", SecretAccessKey: canary},
		{Bucket: "b", Region: "us-east-1", RoleARN: "arn:aws:iam::123456789012:role/backup", WebIdentityTokenFile: token},
	} {
		if _, err = s3store.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no credentials in it") {
			t.Error(err)
		}
	}

	// A source that hangs is left when the context ends.
	hang := make(chan struct{})
	hanging := newFake(t, func(http.ResponseWriter, *http.Request) { <-hang })
	defer close(hang)
	t.Setenv("AWS_ENDPOINT_URL_STS", hanging.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began = time.Now()
	_, err = s3store.New(ctx, s3store.Config{Bucket: "b", Region: "us-east-1", RoleARN: "arn:aws:iam::123456789012:role/backup", AccessKeyID: "AKIABASE", SecretAccessKey: canary})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 8*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
