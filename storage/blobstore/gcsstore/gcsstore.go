// Package gcsstore opens buckets of Google Cloud Storage, and of servers that speak its JSON API, as stores.
package gcsstore

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	gax "github.com/googleapis/gax-go/v2"
	"gocloud.dev/blob/gcsblob"
	"google.golang.org/api/option"

	"github.com/amberkv/amber/storage/blobstore"
)

// A Config says where a bucket is and who asks for it. Of the credentials at most one is given; without any they are Google's
// application default credentials: a file named by GOOGLE_APPLICATION_CREDENTIALS, what `gcloud auth application-default login` left, or
// the service account of the machine.
type Config struct {
	Bucket string
	Prefix string // before every key; see blobstore.Options

	CredentialsFile string // a key file, as the console of Google Cloud gives it
	CredentialsJSON []byte // what is in such a file
	Anonymous       bool   // no credentials: for an emulator, or a bucket that everybody may read

	// Endpoint is the URL of another server than Google's, such as "http://127.0.0.1:4443". It is asked without credentials unless it is given some.
	Endpoint string
}

const (
	partSize = 8 << 20 // bytes, which is what an upload holds to send it again
	largest  = 5 << 40 // bytes of an object, says Google
	attempts = 4       // of a request
)

// New opens a bucket. The caller closes the store. That the bucket exists, and may be used, is not checked.
func New(ctx context.Context, config Config) (*blobstore.Store, error) {
	if config.Bucket == "" {
		return nil, errors.New("gcsstore: Config.Bucket is empty")
	}
	creds, err := config.credentials()
	if err != nil {
		return nil, err
	}
	opts := creds.options
	if config.Endpoint != "" {
		u, err := url.Parse(config.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
			return nil, errors.New("gcsstore: Config.Endpoint is not the URL of a server, as http://127.0.0.1:4443 is")
		}
		opts = append(opts, option.WithEndpoint(strings.TrimSuffix(config.Endpoint, "/")+"/storage/v1/"), storage.WithJSONReads())
	}
	client, err := storage.NewClient(context.WithoutCancel(ctx), opts...)
	if err != nil {
		return nil, fmt.Errorf("gcsstore: bucket %s: no credentials that can be used: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or name one: %w", config.Bucket, err)
	}
	// Without a limit the client tries for ever to reach a server that isn't there.
	client.SetRetry(storage.WithMaxAttempts(attempts), storage.WithBackoff(gax.Backoff{Initial: 200 * time.Millisecond, Max: 3 * time.Second, Multiplier: 2}))
	bucket, err := gcsblob.OpenBucket(ctx, nil, config.Bucket, &gcsblob.Options{Client: client, GoogleAccessID: creds.email, MakeSignBytes: creds.sign})
	if err != nil {
		return nil, fmt.Errorf("gcsstore: %w", err)
	}
	d := &driver{config: config, creds: creds, bucket: bucket}
	return blobstore.New(bucket, &blobstore.Options{
		Prefix: config.Prefix, Exclusive: true, Ordered: true, PartSize: partSize, MaxParts: largest / partSize, Concurrency: 1,
		Driver: blobstore.Driver{
			Upload: d.upload, Pin: d.pin, Classify: d.classify, SignGet: d.signGet, Describe: d.describe, Advise: d.advise, Close: client.Close,
		},
	})
}

// credentials are what a Config says about them. Those of a service account can sign.
type credentials struct {
	options []option.ClientOption
	email   string
	key     *rsa.PrivateKey // nil: they can't sign
	how     string          // for people
}

// sign returns what signs with the key, as gcsblob wants it.
func (c *credentials) sign(context.Context) gcsblob.SignBytesFunc {
	return func(data []byte) ([]byte, error) {
		sum := sha256.Sum256(data)
		return rsa.SignPKCS1v15(nil, c.key, crypto.SHA256, sum[:])
	}
}

func (c *Config) credentials() (*credentials, error) {
	data := c.CredentialsJSON
	switch given := c.CredentialsFile != ""; {
	case given && data != nil, c.Anonymous && (given || data != nil):
		return nil, errors.New("gcsstore: of Config's CredentialsFile, CredentialsJSON and Anonymous only one can be")
	case given:
		var err error
		if data, err = os.ReadFile(c.CredentialsFile); err != nil {
			return nil, fmt.Errorf("gcsstore: Config.CredentialsFile: %w", err)
		}
	case c.Anonymous || data == nil && c.Endpoint != "":
		return &credentials{options: []option.ClientOption{option.WithoutAuthentication()}, how: "none"}, nil
	case data == nil:
		return &credentials{how: "application default"}, nil
	}
	var file struct {
		Type        string `json:"type"`
		ClientEmail string `json:"client_email"`
		PrivateKey  string `json:"private_key"`
	}
	if err := json.Unmarshal(data, &file); err != nil || file.Type == "" {
		// Not what is wrong: it could quote the key.
		return nil, errors.New("gcsstore: the credentials are not what the console of Google Cloud gives: a JSON with a type")
	}
	creds := &credentials{email: file.ClientEmail, how: strings.TrimSpace(file.Type + " " + file.ClientEmail)}
	if block, _ := pem.Decode([]byte(file.PrivateKey)); block != nil {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		rsaKey, ok := key.(*rsa.PrivateKey)
		if err != nil || !ok {
			return nil, errors.New("gcsstore: the private key of the credentials can't be read")
		}
		creds.key = rsaKey
	}
	creds.options = []option.ClientOption{option.WithAuthCredentialsJSON(option.CredentialsType(file.Type), data)}
	return creds, nil
}
