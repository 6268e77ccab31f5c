package s3store

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A Preset is what is known of a service that speaks S3.
type Preset struct {
	Name string // for Config.Preset
	What string // the service, in words

	endpoint  string   // where it is, with {region} for the region; empty: Config.Endpoint has to say
	hosts     []string // by which ends of an endpoint's host it is known
	region    string   // the only one, or the usual one
	virtual   bool     // buckets are addressed as https://bucket.host
	exclusive string   // as Config.Exclusive
	// A proxy of the service changes the header Accept-Encoding, so that it can't be part of the signature.
	unsignedEncoding bool
}

// Presets returns the services that Config.Preset knows by name, in the order of their names.
//
// What is known of them is from their own documentation and from reports of users, of 2026. A create is exclusive by If-None-Match with PUT and
// with the completion of a multipart upload: AWS since 2024, R2 and Scaleway say so. B2 and OVHcloud answer that they don't know the header; Google's
// S3 interface takes it and ignores it, which is worse. Of the others it depends on the version, so that it is checked.
func Presets() []Preset {
	all := []Preset{
		{Name: "aws", What: "Amazon S3", endpoint: "", hosts: []string{".amazonaws.com", ".amazonaws.com.cn"}, virtual: true, exclusive: "yes"},
		{Name: "b2", What: "Backblaze B2", endpoint: "https://s3.{region}.backblazeb2.com", hosts: []string{".backblazeb2.com"}, exclusive: "no"},
		{Name: "ceph", What: "Ceph's RADOS gateway", exclusive: "check"},
		{Name: "digitalocean", What: "DigitalOcean Spaces", endpoint: "https://{region}.digitaloceanspaces.com", hosts: []string{".digitaloceanspaces.com"}, virtual: true, exclusive: "check"},
		{Name: "gcs", What: "Google Cloud Storage by its S3 interface", endpoint: "https://storage.googleapis.com", hosts: []string{"storage.googleapis.com"}, region: "auto", exclusive: "no", unsignedEncoding: true},
		{Name: "hetzner", What: "Hetzner Object Storage", endpoint: "https://{region}.your-objectstorage.com", hosts: []string{".your-objectstorage.com"}, exclusive: "check"},
		{Name: "minio", What: "MinIO", exclusive: "check"},
		{Name: "ovh", What: "OVHcloud Object Storage", endpoint: "https://s3.{region}.io.cloud.ovh.net", hosts: []string{".cloud.ovh.net"}, virtual: true, exclusive: "no"},
		{Name: "r2", What: "Cloudflare R2", hosts: []string{".r2.cloudflarestorage.com"}, region: "auto", exclusive: "yes"},
		{Name: "scaleway", What: "Scaleway Object Storage", endpoint: "https://s3.{region}.scw.cloud", hosts: []string{".scw.cloud"}, virtual: true, exclusive: "yes"},
		{Name: "wasabi", What: "Wasabi", endpoint: "https://s3.{region}.wasabisys.com", hosts: []string{".wasabisys.com"}, exclusive: "check"},
	}
	return all
}

// other is a service of which nothing is known.
var other = Preset{What: "a service that no preset is for", exclusive: "check"}

// presetFor returns the preset of a name or, if that is empty, of an endpoint.
func presetFor(name, endpoint string) (Preset, error) {
	all := Presets()
	if name != "" {
		i := slices.IndexFunc(all, func(p Preset) bool { return p.Name == name })
		if i < 0 {
			names := make([]string, len(all))
			for i, p := range all {
				names[i] = p.Name
			}
			return Preset{}, fmt.Errorf("there is no preset %q; there are %s", name, strings.Join(names, ", "))
		}
		return all[i], nil
	}
	if endpoint == "" {
		return all[0], nil
	}
	host := hostOf(endpoint)
	for _, p := range all {
		if slices.ContainsFunc(p.hosts, func(end string) bool { return strings.HasSuffix(host, end) }) {
			return p, nil
		}
	}
	return other, nil
}

// regionIn returns the region that an endpoint of the service tells, or "".
func (p *Preset) regionIn(endpoint string) string {
	pattern := p.endpoint
	if p.Name == "aws" {
		pattern = "https://s3.{region}.amazonaws.com"
	}
	before, after, ok := strings.Cut(hostOf(pattern), "{region}")
	if !ok {
		return ""
	}
	region, ok := strings.CutPrefix(hostOf(endpoint), before)
	if !ok {
		return ""
	}
	if region, ok = strings.CutSuffix(region, after); !ok || region == "" || strings.Contains(region, ".") {
		return ""
	}
	return region
}

func hostOf(endpoint string) string {
	_, host, ok := strings.Cut(endpoint, "://")
	if !ok {
		host = endpoint
	}
	host, _, _ = strings.Cut(host, "/")
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(host)
}

// endpointURL makes a URL of what Config.Endpoint takes.
func endpointURL(endpoint string, plain bool) (string, error) {
	if endpoint == "" {
		return "", nil
	}
	if !strings.Contains(endpoint, "://") {
		scheme := "https://"
		if plain {
			scheme = "http://"
		}
		endpoint = scheme + endpoint
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Hostname() == "":
		return "", fmt.Errorf("the endpoint is no host, host:port or URL")
	case u.User != nil:
		return "", fmt.Errorf("the endpoint of %s has a name or password in it; credentials come from the environment or a profile", u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("the endpoint of %s has the scheme %q, want http or https", u.Host, u.Scheme)
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("the endpoint of %s has a query or a fragment", u.Host)
	case plain && u.Scheme == "https":
		return "", fmt.Errorf("the endpoint of %s says https, and HTTPS is turned off", u.Host)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}
