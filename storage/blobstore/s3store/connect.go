package s3store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/amberkv/amber/internal/clock"
)

// A client reaches the bucket's service.
type client struct {
	s3       *s3.Client
	aws      aws.Config
	preset   Preset
	endpoint string // a URL; empty: AWS's for the region
	virtual  bool
	seen     atomic.Bool            // the bucket is there
	last     atomic.Pointer[string] // the access key that was used last, shortened
}

// connect finds out where the service is and who we are.
func connect(ctx context.Context, cfg *Config) (*client, error) {
	c := &client{}
	var err error
	if c.endpoint, err = endpointURL(cfg.Endpoint, cfg.HTTP); err != nil {
		return nil, err
	}
	if c.preset, err = presetFor(cfg.Preset, c.endpoint); err != nil {
		return nil, err
	}
	region := cmp.Or(cfg.Region, c.preset.region, c.preset.regionIn(c.endpoint))
	if c.aws, err = load(ctx, cfg, region); err != nil {
		return nil, err
	}
	if c.endpoint == "" {
		// The SDK knows the endpoint of the environment and of the profile, and tells by a client only.
		c.endpoint = aws.ToString(s3.NewFromConfig(c.aws).Options().BaseEndpoint)
		if c.endpoint != "" && cfg.Preset == "" {
			if c.preset, err = presetFor("", c.endpoint); err != nil {
				return nil, err
			}
			if region == "" {
				c.aws.Region = cmp.Or(c.preset.region, c.preset.regionIn(c.endpoint), c.aws.Region)
			}
		}
	}
	if c.aws.Region == "" && c.endpoint != "" {
		c.aws.Region = "us-east-1" // which servers of one's own take
	}
	if c.endpoint == "" && c.preset.endpoint != "" {
		if c.aws.Region == "" && strings.Contains(c.preset.endpoint, "{region}") {
			return nil, fmt.Errorf("no region: %s is at %s; set the region or the endpoint", c.preset.What, c.preset.endpoint)
		}
		c.endpoint = strings.ReplaceAll(c.preset.endpoint, "{region}", c.aws.Region)
	}
	switch {
	case c.endpoint == "" && c.preset.Name != "aws":
		return nil, fmt.Errorf("no endpoint: where %s is only you know; set the endpoint", c.preset.What)
	case c.aws.Region == "":
		return nil, errors.New("no region: set it (region=… in a URL), or AWS_REGION, or region in the profile of the shared config file; on an EC2 instance its metadata tells, if they are turned on")
	}
	c.virtual = c.preset.virtual
	if cfg.Addressing != "" {
		c.virtual = cfg.Addressing == "virtual"
	}
	provider := c.aws.Credentials
	c.aws.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		got, err := provider.Retrieve(ctx)
		if id := shortened(got.AccessKeyID); err == nil {
			c.last.Store(&id)
		}
		return got, err
	})
	c.s3 = s3.NewFromConfig(c.aws, func(o *s3.Options) {
		if c.endpoint != "" {
			o.BaseEndpoint = aws.String(c.endpoint)
		}
		o.EndpointOptions.DisableHTTPS = cfg.HTTP
		o.UsePathStyle = !c.virtual
		// The SDK's own checksums come as a trailer over HTTPS, which most services but AWS refuse.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		// Services that don't answer "100 Continue" would cost a second for each part.
		o.ContinueHeaderThresholdBytes = -1
		// versitygw answers so if a directory goes away beneath an object, because the last other object in it is deleted at that moment.
		o.Retryer = retry.AddWithErrorCodes(o.Retryer, "ExistingObjectIsDirectory")
		o.APIOptions = append(o.APIOptions, c.tellWhy)
		switch cfg.Payload {
		case "signed":
			o.APIOptions = append(o.APIOptions, signPayload)
		case "unsigned":
			o.APIOptions = append(o.APIOptions, dontSignPayload)
		}
		if c.preset.unsignedEncoding {
			o.APIOptions = append(o.APIOptions, dontSignEncoding)
		}
	})
	if _, err := c.aws.Credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("getting credentials: %w", ctx.Err())
		}
		return nil, fmt.Errorf("no credentials: %w; they may come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a profile of the shared files (AWS_PROFILE), a web identity, a container, or the metadata of an EC2 instance, if that is turned on", err)
	}
	return c, nil
}

// load makes the SDK's configuration: whose we are, and how connections are made.
func load(ctx context.Context, cfg *Config, region string) (aws.Config, error) {
	stall := cmp.Or(cfg.Timeout, time.Minute)
	opts := []func(*config.LoadOptions) error{
		config.WithLogger(logging.Nop{}),
		config.WithAPIOptions([]func(*middleware.Stack) error{wholeAnswers}),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
			if cfg.Transport != nil {
				cfg.Transport(tr)
			}
			dial := tr.DialContext
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &liveConn{c, stall}, nil
			}
			// As many idle connections as uploads may need at the same time, so that they don't have to make new ones.
			tr.MaxIdleConnsPerHost = max(tr.MaxIdleConnsPerHost, 64)
			tr.WriteBufferSize = 256 << 10
		})),
	}
	if region != "" {
		opts = append(opts, config.WithRegion(region))
	}
	if cfg.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(cfg.Profile))
	}
	if len(cfg.CABundle) > 0 {
		opts = append(opts, config.WithCustomCABundle(bytes.NewReader(cfg.CABundle)))
	}
	if cfg.EC2Metadata {
		opts = append(opts, config.WithEC2IMDSClientEnableState(imds.ClientEnabled))
		if region == "" {
			opts = append(opts, config.WithEC2IMDSRegion())
		}
	} else {
		opts = append(opts, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	switch {
	case cfg.Credentials != nil:
		opts = append(opts, config.WithCredentialsProvider(cfg.Credentials))
	case cfg.AccessKeyID != "":
		opts = append(opts, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken)))
	}
	out, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return out, fmt.Errorf("reading the configuration of AWS: %w", err)
	}
	switch {
	case cfg.WebIdentityTokenFile != "":
		out.Credentials = aws.NewCredentialsCache(stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(out), cfg.RoleARN, stscreds.IdentityTokenFile(cfg.WebIdentityTokenFile)))
	case cfg.RoleARN != "":
		out.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(out), cfg.RoleARN))
	}
	return out, nil
}

// A liveConn breaks if neither direction moves for a while: a server that hangs would hang a backup for ever otherwise.
type liveConn struct {
	net.Conn
	stall time.Duration
}

func (c *liveConn) alive() { c.Conn.SetDeadline(clock.System().Add(c.stall)) }

func (c *liveConn) Read(p []byte) (int, error) {
	c.alive()
	return c.Conn.Read(p)
}

func (c *liveConn) Write(p []byte) (int, error) {
	c.alive()
	return c.Conn.Write(p)
}

// wholeAnswers makes an answer of STS without credentials an error. The SDK takes them for granted, and panics, in a goroutine of its own.
func wholeAnswers(stack *middleware.Stack) error {
	if !strings.HasPrefix(stack.ID(), "AssumeRole") {
		return nil
	}
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("wholeAnswers", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		out, meta, err := next.HandleInitialize(ctx, in)
		if err != nil {
			return out, meta, err
		}
		var c *types.Credentials
		switch result := out.Result.(type) {
		case *sts.AssumeRoleOutput:
			c = result.Credentials
		case *sts.AssumeRoleWithWebIdentityOutput:
			c = result.Credentials
		default:
			return out, meta, nil
		}
		if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.SessionToken == nil || c.Expiration == nil {
			err = errors.New("the answer of STS has no credentials in it")
		}
		return out, meta, err
	}), middleware.Before)
}

// uploads says whether a stack is that of a request which carries the bytes of an object.
func uploads(stack *middleware.Stack) bool {
	return stack.ID() == "PutObject" || stack.ID() == "UploadPart"
}

// signPayload makes the signature hold for the bytes of an upload, over HTTPS too.
func signPayload(stack *middleware.Stack) error {
	if !uploads(stack) {
		return nil
	}
	_, err := stack.Finalize.Swap((&v4.ComputePayloadSHA256{}).ID(), &v4.ComputePayloadSHA256{})
	return err
}

// dontSignPayload leaves the bytes of an upload out of its signature, over HTTP too.
func dontSignPayload(stack *middleware.Stack) error {
	if !uploads(stack) {
		return nil
	}
	return v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware(stack)
}

// dontSignEncoding leaves Accept-Encoding out of signatures.
func dontSignEncoding(stack *middleware.Stack) error {
	if _, ok := stack.Finalize.Get("Signing"); !ok {
		return nil // a presigned URL, which has no such header
	}
	type key struct{}
	const header = "Accept-Encoding"
	take := middleware.FinalizeMiddlewareFunc("takeEncoding", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		if r, ok := in.Request.(*smithyhttp.Request); ok {
			ctx = middleware.WithStackValue(ctx, key{}, r.Header.Get(header))
			r.Header.Del(header)
		}
		return next.HandleFinalize(ctx, in)
	})
	give := middleware.FinalizeMiddlewareFunc("giveEncoding", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		if r, ok := in.Request.(*smithyhttp.Request); ok {
			if v, _ := middleware.GetStackValue(ctx, key{}).(string); v != "" {
				r.Header.Set(header, v)
			}
		}
		return next.HandleFinalize(ctx, in)
	})
	return errors.Join(stack.Finalize.Insert(take, "Signing", middleware.Before), stack.Finalize.Insert(give, "Signing", middleware.After))
}
