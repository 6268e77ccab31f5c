package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/amberkv/amber/storage"
)

// Error codes by what is to be thought of them. A HEAD has no body, and gets the words of its status for a code.
var (
	transientCodes = []string{
		"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException",
		"ThrottledException", "RequestThrottled", "RequestThrottledException", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded",
		"BandwidthLimitExceeded", "PriorRequestNotComplete", "OperationAborted", "ConditionalRequestConflict", "Busy", "ServerBusy",
	}
	deniedCodes = []string{
		"AccessDenied", "Forbidden", "Unauthorized", "UnauthorizedAccess", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
		"ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidClientTokenId", "InvalidIdentityToken", "RequestTimeTooSkewed",
		"RequestExpired", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "InvalidSecurity", "AuthorizationHeaderMalformed",
		"IDPRejectedClaim", "MissingSecurityHeader", "MissingAuthenticationToken", "XAdminUserNotFound",
	}
	retainedCodes = []string{"ObjectLocked", "ObjectImmutable"}
)

// classify says of what nature an error is. What gocloud.dev says of it is left off, since it takes a bucket that doesn't exist for an
// object that doesn't, and an object that changed while it was read for one that exists already.
func (d *driver) classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrRetained) || errors.Is(err, storage.ErrExists) {
		return err
	}
	var op *smithy.OperationError
	if !errors.As(err, &op) {
		return err
	}
	err = &said{err, op} // from here on as the SDK tells it
	code, message := codeOf(err)
	switch {
	case code == "NoSuchBucket":
		return fmt.Errorf("there is no bucket %s: %w", d.cfg.Bucket, err)
	case code == "NoSuchKey" || code == "NotFound" && op.Operation() != "HeadBucket":
		return fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case code == "PreconditionFailed" || isStatus(err, http.StatusPreconditionFailed):
		if op.Operation() == "GetObject" {
			return fmt.Errorf("the object was replaced while it was read: %w", err)
		}
		return fmt.Errorf("%w: %w", storage.ErrExists, err)
	case slices.Contains(retainedCodes, code) || isLocked(message):
		return fmt.Errorf("%w: %w", storage.ErrRetained, err)
	case slices.Contains(deniedCodes, code) || isStatus(err, http.StatusForbidden) || isStatus(err, http.StatusUnauthorized):
		return fmt.Errorf("%w: %w", storage.ErrDenied, err)
	case slices.Contains(transientCodes, code) || transientStatus(err) || code == "" && isConnection(err):
		return fmt.Errorf("%w: %w", storage.ErrTransient, err)
	}
	return err
}

// said is an error of gocloud.dev, or of ours, without what gocloud.dev makes of it.
type said struct {
	text error
	op   *smithy.OperationError
}

func (e *said) Error() string {
	// The text is that of gocloud.dev only in front of what the SDK says.
	text, sdk := e.text.Error(), e.op.Error()
	if strings.HasPrefix(text, "blob ") || !strings.HasSuffix(text, sdk) {
		return sdk
	}
	return text
}
func (e *said) Unwrap() error { return e.op }

func codeOf(err error) (code, message string) {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode(), api.ErrorMessage()
	}
	return "", ""
}

func isCode(err error, code string) bool {
	got, _ := codeOf(err)
	return got == code
}

func isStatus(err error, status int) bool {
	var r *smithyhttp.ResponseError
	return errors.As(err, &r) && r.HTTPStatusCode() == status
}

func transientStatus(err error) bool {
	var r *smithyhttp.ResponseError
	if !errors.As(err, &r) {
		return false
	}
	s := r.HTTPStatusCode()
	return s >= 500 && s != http.StatusNotImplemented && s != http.StatusHTTPVersionNotSupported || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout
}

// isLocked says whether the service denies something because of a retention.
func isLocked(message string) bool {
	m := strings.ToLower(message)
	return strings.Contains(m, "by object lock") || strings.Contains(m, "object protected") || strings.Contains(m, "worm protected") || strings.Contains(m, "retention period")
}

// isConnection says whether a request failed on its way, in a manner that may be otherwise the next time.
func isConnection(err error) bool {
	var send *smithyhttp.RequestSendError
	var dns *net.DNSError
	switch {
	case wrongScheme(err), badCertificate(err):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	var n net.Error
	return errors.As(err, &send) || errors.As(err, &n)
}

func badCertificate(err error) bool {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &host)
}

// wrongScheme says whether the server speaks HTTP where HTTPS was meant.
func wrongScheme(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// advise says what may help. The words in parentheses are those of a URL.
func (d *driver) advise(err error) string {
	if err == nil {
		return ""
	}
	var dns *net.DNSError
	code, message := codeOf(err)
	switch {
	case errors.Is(err, errNoLock):
		return "make a bucket with object lock, and versions, which it needs from the beginning; or leave the lock off (object_lock=)"
	case errors.Is(err, storage.ErrRetained):
		return "the object is locked until its retention ends: delete it then; someone who may bypass governance can delete it before, unless the mode is COMPLIANCE"
	case strings.Contains(err.Error(), "failed to refresh cached credentials"):
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary ones), or name a profile of the shared files (profile=…); on an EC2 instance turn on its metadata (ec2_metadata=true)"
	case wrongScheme(err):
		return "the server speaks plain HTTP: put http:// in front of the endpoint, or turn HTTPS off (https=false)"
	case badCertificate(err):
		return "the server's certificate isn't trusted, or is for another name: give the authority's certificate (ca_bundle=FILE, or AWS_CA_BUNDLE), and an endpoint that the certificate names"
	case errors.As(err, &dns) && d.virtual && strings.HasPrefix(dns.Name, d.cfg.Bucket+"."):
		return "the bucket is looked for as a host's name: address it by path (path_style=true)"
	case errors.As(err, &dns):
		return "the endpoint's name can't be resolved: check the endpoint and the region"
	case code == "RequestTimeTooSkewed":
		return "the clocks of this machine and of the service are too far apart: set this machine's clock, by NTP"
	case code == "NoSuchBucket", code == "NotFound" && !errors.Is(err, storage.ErrNotFound):
		return "the bucket doesn't exist there: make it, or check its name, the endpoint and the region"
	case code == "InvalidAccessKeyId", code == "InvalidClientTokenId", code == "XAdminUserNotFound":
		return "the service doesn't know the access key " + d.keyID() + ": check which credentials are used, and that they belong to this service"
	case code == "SignatureDoesNotMatch":
		return "the secret key doesn't belong to the access key " + d.keyID() + "; or a proxy in between changes headers; or the service expects another region (region=…) or way of addressing (path_style=…)"
	case code == "ExpiredToken", code == "ExpiredTokenException", code == "TokenRefreshRequired", code == "RequestExpired":
		return "the temporary credentials have expired: renew them, or use a source that renews them by itself (a role, a web identity, a container, EC2)"
	case code == "InvalidToken", code == "InvalidIdentityToken":
		return "the session token isn't valid here: check AWS_SESSION_TOKEN, which may be left from other credentials"
	case code == "AuthorizationHeaderMalformed", code == "PermanentRedirect", code == "MovedPermanently", code == "IllegalLocationConstraintException",
		code == "TemporaryRedirect", isStatus(err, http.StatusMovedPermanently), strings.Contains(strings.ToLower(message), "region"):
		return "the bucket is in another region than " + d.aws.Region + ": set the right one (region=…, or AWS_REGION)"
	case code == "AccessDenied", code == "Forbidden", errors.Is(err, storage.ErrDenied):
		return "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the bucket's objects, and s3:ListBucket and s3:ListBucketMultipartUploads on the bucket" + d.lockActions()
	case strings.Contains(message, "Content-MD5"), strings.Contains(message, "x-amz-checksum"):
		return "the bucket demands a checksum, as those with object lock do: send one (checksum=md5, or checksum=crc32)"
	case code == "NotImplemented", isStatus(err, http.StatusNotImplemented):
		return "the service doesn't know a header or an operation: with a preset (preset=…) only what the service knows is sent; checksums (checksum=none), storage class, encryption, object lock and exclusive creates (exclusive=no) can be left off"
	case code == "InvalidStorageClass":
		return "the service has no storage class " + d.cfg.StorageClass
	case code == "NoSuchUpload":
		return "the upload was ended from outside: by a sweep whose age is too low, or by a rule of the bucket's"
	case code == "EntityTooLarge":
		return "the object or its part is larger than the service takes: choose another part size (part_size=…)"
	case code == "SlowDown", code == "Throttling", isStatus(err, http.StatusTooManyRequests):
		return "the service is asked too often: send fewer parts at the same time (concurrency=…)"
	case isConnection(err):
		return "the service can't be reached: check the endpoint, the scheme (https=…), the network and the proxies (HTTPS_PROXY, NO_PROXY)"
	case errors.Is(err, storage.ErrTransient):
		return "the service failed by itself: try again later"
	}
	return ""
}

func (d *driver) lockActions() string {
	if d.cfg.ObjectLock == "" {
		return ""
	}
	return ", and for object lock s3:GetBucketObjectLockConfiguration, s3:PutObjectRetention, s3:GetObjectRetention, s3:DeleteObjectVersion and s3:ListBucketVersions"
}
