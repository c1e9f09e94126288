//! What requests must prove.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

part! {
    /// Proofs. Secrets are in the namespace of the policy.
    AuthenticationPolicy {
        /// Name and password (RFC 7617).
        basic: Option<BasicAuth>,
        /// Signatures with shared secrets (`draft-cavage-http-signatures`).
        hmac: Option<HmacAuth>,
        /// API keys.
        api_key: Option<ApiKeyAuth>,
        /// JSON Web Tokens (RFC 7519).
        jwt: Option<JwtAuth>,
        /// Tokens that their issuer reports as active (RFC 7662).
        introspection: Option<IntrospectionAuth>,
        /// Name and password that a directory accepts (RFC 4513).
        ldap: Option<LdapAuth>,
        /// PASETO of version 4.
        paseto: Option<PasetoAuth>,
        /// Log-in at an OpenID provider.
        oidc: Option<OidcAuth>,
        /// The decision of another service.
        external: Option<ExternalAuthPolicy>,
        /// Secret whose `ca.crt` verifies the servers that are asked, instead of the system's authorities.
        ca_secret: Option<String>,
    }
}

part! {
    /// Name and password.
    BasicAuth {
        /// Secret with the users.
        secret: String,
        /// `auth-file`: key `auth` of the Secret is an `htpasswd` file (default); `auth-map`: each key is a user.
        #[schemars(extend("enum" = ["auth-file", "auth-map"]))]
        format: Option<String>,
        /// Realm that is shown to users at log-in.
        realm: Option<String>,
    }
}

part! {
    /// Signatures with shared secrets.
    HmacAuth {
        /// Secret with a shared secret for each user.
        secret: String,
        /// Allowed difference between `Date` and now; `300s` if not given.
        leeway: Option<String>,
    }
}

part! {
    /// API keys.
    ApiKeyAuth {
        /// Secret with a key for each consumer.
        secret: String,
        /// Header with the key; `X-API-Key` if not given.
        header: Option<String>,
        /// Query parameter that may have the key instead.
        query: Option<String>,
    }
}

part! {
    /// JSON Web Tokens.
    JwtAuth {
        /// Secret with `secret`, or `public.pem`.
        secret: Option<String>,
        /// Address of the key set, instead of `secret`.
        server: Option<String>,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Tokens that their issuer reports as active.
    IntrospectionAuth {
        /// Secret with `client-id` and `client-secret`.
        secret: String,
        /// Address of the introspection endpoint.
        server: String,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Required scopes.
        scopes: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Name and password that a directory accepts.
    LdapAuth {
        /// Address: `ldap://` or `ldaps://`.
        server: String,
        /// STARTTLS over `ldap://`.
        starttls: Option<bool>,
        /// DN of a user's entry, with `{user}`.
        user: Option<String>,
        /// Base DN of the search for users, instead of `user`.
        base: Option<String>,
        /// Filter of the search; `(uid={user})` if not given.
        filter: Option<String>,
        /// Secret with `bind-dn` and `bind-password` for the search.
        secret: Option<String>,
        /// Realm that is shown to users at log-in.
        realm: Option<String>,
    }
}

part! {
    /// PASETO of version 4.
    PasetoAuth {
        /// Secret with `public`, or `local`.
        secret: String,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Log-in at an OpenID provider.
    OidcAuth {
        /// Secret with `client-id`, `client-secret` and `cookie-key` (at least 32 bytes).
        secret: String,
        /// Address of the provider.
        issuer: String,
        /// Requested scopes.
        scopes: Option<Vec<String>>,
        /// Path that users return to after log-in; `/oauth2/callback` if not given.
        callback_path: Option<String>,
        /// Path that logs users out; `/oauth2/logout` if not given.
        logout_path: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// A service that checks each request.
    ExternalAuthPolicy {
        /// Address; 2xx admits a request, 401 and 403 reject it. Path and query may have variables of nginx.
        url: String,
        /// Method of the request to it; GET if not given.
        method: Option<String>,
        /// Address that clients are redirected to (302) if it answers 401.
        signin: Option<String>,
        /// Query parameter of `signin` with the address to return to; `rd` if not given.
        signin_parameter: Option<String>,
        /// Headers of its response that backends get.
        response_headers: Option<Vec<String>>,
        /// Value of `X-Auth-Request-Redirect` in the request to it.
        request_redirect: Option<String>,
    }
}
