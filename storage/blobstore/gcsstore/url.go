package gcsstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	amber "github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// Opener opens URLs of the form gs://bucket/prefix?endpoint=…&anonymous=true, for blobstore.OpenURL. Both parameters may be left out. The credentials are
// Google's application default credentials; STORAGE_EMULATOR_HOST names an emulator, as for Google's own libraries.
type Opener struct{}

// Scheme returns "gs".
func (Opener) Scheme() string { return "gs" }

// OpenURL opens a bucket; see New.
func (Opener) OpenURL(ctx context.Context, u *url.URL) (amber.StoreCloser, error) {
	config, err := parse(u, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", blobstore.ErrURL, err)
	}
	s, err := New(ctx, config)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func parse(u *url.URL, getenv func(string) string) (Config, error) {
	params, err := blobstore.Params(u, "anonymous", "endpoint")
	if err != nil {
		return Config{}, err
	}
	config := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: params["endpoint"]}
	if u.Host == "" {
		return Config{}, errors.New("gcsstore: the URL names no bucket; it is gs://bucket/prefix")
	}
	if a, ok := params["anonymous"]; ok {
		if a != "true" && a != "false" {
			return Config{}, errors.New("gcsstore: the URL's anonymous is neither true nor false")
		}
		config.Anonymous = a == "true"
	}
	if host := getenv("STORAGE_EMULATOR_HOST"); config.Endpoint == "" && host != "" {
		config.Endpoint = host
		if !strings.Contains(host, "://") {
			config.Endpoint = "http://" + host
		}
	}
	// With its key, URLs can be signed.
	if file := getenv("GOOGLE_APPLICATION_CREDENTIALS"); file != "" && !config.Anonymous && config.Endpoint == "" {
		config.CredentialsFile = file
	}
	return config, nil
}
