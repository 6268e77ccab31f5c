// Package s3store keeps objects in a bucket of Amazon S3, or of a server or service that speaks its protocol.
//
// A host fills in a [Config] and calls [New], or has a user's URL opened by an [Opener]:
//
//	s3://bucket/prefix
//	s3://bucket/prefix?endpoint=minio.internal:9000&preset=minio
//	s3://bucket?preset=wasabi&region=eu-central-1&profile=backups
//
// What neither says comes from where the tools of AWS look for it: the environment (AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID with
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, AWS_ENDPOINT_URL_S3, AWS_CA_BUNDLE and so on), the shared files ~/.aws/config and ~/.aws/credentials or
// those that AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name, a web identity (IRSA), the container's endpoint of ECS and EKS, and, only
// if it is asked for, the metadata of an EC2 instance. [FromDragonfly] makes a Config of the flags of a Dragonfly server.
//
// The services differ in details that break backups: how a bucket is addressed, which checksums are taken, whether a create can be
// exclusive. A [Preset] knows these for one service; see [Presets].
package s3store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"gocloud.dev/blob/s3blob"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// A Config says where a bucket is and how it is used. Only Bucket is needed. It prints without its secrets.
type Config struct {
	Bucket string
	// Prefix comes before every key; see blobstore.Options.
	Prefix string

	// Preset is the service's name, one of Presets. Empty: the service is known by its endpoint, or nothing is known of it.
	Preset string
	// Endpoint is the host, host:port or URL of the service, without the bucket. Empty: that of the environment or the profile
	// (AWS_ENDPOINT_URL_S3), of the Preset, or of AWS.
	Endpoint string
	// HTTP turns TLS off, for an Endpoint without a scheme and for AWS.
	HTTP bool
	// Region is what requests are signed for. Empty: the one that the Preset or the Endpoint tells, else AWS_REGION, AWS_DEFAULT_REGION, that of the
	// profile, that of the EC2 instance if EC2Metadata is on, else us-east-1 if there is an Endpoint. Otherwise it is an error.
	Region string
	// Addressing is "path" for https://host/bucket/key and "virtual" for https://bucket.host/key. Empty: "virtual" with AWS and the services that
	// do so, "path" with other endpoints.
	Addressing string

	// Profile is a profile in the shared files; empty: AWS_PROFILE, or "default".
	Profile string
	// AccessKeyID, SecretAccessKey and SessionToken are credentials that the host has itself.
	AccessKeyID     string
	SecretAccessKey string `json:"-"`
	SessionToken    string `json:"-"`
	// Credentials are the host's own source of credentials, such as one that asks a vault. Nil: as above.
	Credentials aws.CredentialsProvider `json:"-"`
	// RoleARN is a role to assume at STS, with the credentials at hand or, if WebIdentityTokenFile is set, with the token in that file.
	RoleARN              string
	WebIdentityTokenFile string
	// EC2Metadata lets credentials and region come from the metadata of the EC2 instance. Otherwise it is never asked.
	EC2Metadata bool

	// Payload is "signed" or "unsigned": whether the signature of an upload holds for its bytes. Empty: signed over HTTP, unsigned over HTTPS,
	// which protects them itself.
	Payload string
	// Checksum is sent with every upload: "none", "md5" (as Content-MD5) or "crc32" (as x-amz-checksum-crc32). It is a plain header, never a trailer,
	// which many services refuse. Empty: "md5" with ObjectLock, for which S3 demands one, else "none". Backups are proved by their own
	// hashes in any case.
	Checksum string
	// Exclusive says whether the service makes a create with IfNotExist exclusive, by If-None-Match: "yes", "no", or "check", which sends the first such
	// create of up to a part twice, to see whether the service heeds the header: then the second is refused. Empty: what the Preset knows, else "check".
	Exclusive string

	// StorageClass is that of new objects, such as "STANDARD_IA"; empty: the bucket's.
	StorageClass string
	// SSE is how the service encrypts new objects: "AES256", "aws:kms" or "aws:kms:dsse"; empty: as the bucket says. KMSKeyID is the key for the last two.
	SSE      string
	KMSKeyID string
	// ObjectLock is the mode of retention of new objects, "GOVERNANCE" or "COMPLIANCE", and Retain for how long. The bucket needs versions and object lock.
	// Delete then removes every version of an object for good, or fails with an error that wraps storage.ErrRetained.
	ObjectLock string
	Retain     time.Duration

	// CABundle holds certificates, in PEM, of the authorities to trust instead of the machine's or those of AWS_CA_BUNDLE.
	CABundle []byte `json:"-"`
	// Transport, if set, may change how connections are made: proxies, client certificates, limits.
	Transport func(*http.Transport) `json:"-"`
	// Timeout is how long a connection may be at a standstill before it counts as broken; 0: a minute. Requests that fail are made three times in all, as
	// the SDK's standard retryer does, or as often as AWS_MAX_ATTEMPTS says.
	Timeout time.Duration

	// PartSize and Concurrency are those of uploads; see blobstore.Options. S3 takes parts of 5 MiB and more.
	PartSize    int64
	Concurrency int
}

// String tells what identifies the store, and no secret.
func (c Config) String() string {
	return fmt.Sprintf("s3://%s/%s (preset %q, endpoint %q, region %q, profile %q)", c.Bucket, c.Prefix, c.Preset, c.Endpoint, c.Region, c.Profile)
}

// Format prints String, whatever the verb.
func (c Config) Format(s fmt.State, _ rune) { fmt.Fprint(s, c.String()) }

// The words that the fields of a Config take.
var (
	addressings = []string{"", "path", "virtual"}
	payloads    = []string{"", "signed", "unsigned"}
	checksums   = []string{"", "none", "md5", "crc32"}
	exclusives  = []string{"", "yes", "no", "check"}
	encryptions = []string{"", "AES256", "aws:kms", "aws:kms:dsse"}
	lockModes   = []string{"", "GOVERNANCE", "COMPLIANCE"}
)

// check finds what is wrong with a Config by itself.
func (c *Config) check() error {
	for _, f := range []struct {
		name, value string
		words       []string
	}{
		{"Addressing", c.Addressing, addressings}, {"Payload", c.Payload, payloads}, {"Checksum", c.Checksum, checksums},
		{"Exclusive", c.Exclusive, exclusives}, {"SSE", c.SSE, encryptions}, {"ObjectLock", c.ObjectLock, lockModes},
	} {
		if !slices.Contains(f.words, f.value) {
			return fmt.Errorf("field %s of Config is %q, and has to be one of %s, or empty", f.name, f.value, strings.Join(f.words[1:], ", "))
		}
	}
	switch {
	case c.Bucket == "":
		return errors.New("no bucket: Config.Bucket is empty")
	case strings.ContainsAny(c.Bucket, "/?#@ "):
		return fmt.Errorf("Config.Bucket %q is no bucket's name", c.Bucket)
	case (c.ObjectLock == "") != (c.Retain == 0) || c.Retain < 0:
		return errors.New("Config.ObjectLock and Config.Retain, a time above 0, need each other")
	case c.KMSKeyID != "" && !strings.HasPrefix(c.SSE, "aws:kms"):
		return errors.New(`Config.KMSKeyID needs Config.SSE "aws:kms" or "aws:kms:dsse"`)
	case c.PartSize != 0 && c.PartSize < 5<<20:
		return fmt.Errorf("Config.PartSize is %d bytes, and S3 takes parts of %d bytes (5 MiB) and more", c.PartSize, 5<<20)
	case c.PartSize > 5<<30:
		return fmt.Errorf("Config.PartSize is %d bytes, and S3 takes parts of up to 5 GiB", c.PartSize)
	case c.Concurrency < 0 || c.Timeout < 0:
		return errors.New("Config.Concurrency or Config.Timeout is negative")
	case (c.AccessKeyID == "") != (c.SecretAccessKey == ""):
		return errors.New("Config.AccessKeyID and Config.SecretAccessKey need each other")
	case c.SessionToken != "" && c.AccessKeyID == "":
		return errors.New("Config.SessionToken needs Config.AccessKeyID and Config.SecretAccessKey")
	case c.Credentials != nil && c.AccessKeyID != "":
		return errors.New("Config.Credentials and Config.AccessKeyID exclude each other")
	case c.WebIdentityTokenFile != "" && c.RoleARN == "":
		return errors.New("Config.WebIdentityTokenFile needs Config.RoleARN")
	case c.WebIdentityTokenFile != "" && (c.Credentials != nil || c.AccessKeyID != ""):
		return errors.New("Config.WebIdentityTokenFile and credentials exclude each other")
	}
	return nil
}

// New opens the store in a bucket. It gets the credentials, so that it fails if there are none, but doesn't look at the bucket. The caller closes
// the store.
func New(ctx context.Context, cfg Config) (*blobstore.Store, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	c, err := connect(ctx, &cfg)
	if err != nil {
		return nil, fmt.Errorf("s3store: %s: %w", cfg.Bucket, err)
	}
	bucket, err := s3blob.OpenBucket(ctx, c.s3, cfg.Bucket, &s3blob.Options{RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired})
	if err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	d := &driver{client: c, cfg: cfg}
	d.cfg.Checksum = cmp.Or(cfg.Checksum, "none")
	if cfg.Checksum == "" && cfg.ObjectLock != "" {
		d.cfg.Checksum = "md5"
	}
	d.cfg.Exclusive = cmp.Or(cfg.Exclusive, c.preset.exclusive)
	d.heeded.Store(d.cfg.Exclusive == "yes")
	return blobstore.New(bucket, &blobstore.Options{
		Prefix: cfg.Prefix, Exclusive: d.cfg.Exclusive != "no", Ordered: true, PartSize: cfg.PartSize, Concurrency: cfg.Concurrency,
		Driver: blobstore.Driver{
			Upload: d.upload, Delete: d.delete, Pin: d.pin, Classify: d.classify, Sweep: d.sweep, SignGet: d.signGet,
			Describe: d.describe, Advise: d.advise,
		},
	})
}

var _ storage.StoreCloser = (*blobstore.Store)(nil)
