//! Pure: from the header of a request to reviews, and from their results to the access.
//!
//! Input: the header, and what the API server returned.
//! Output: a [`TokenReview`], a [`SubjectAccessReview`], an [`Access`].
//! Invariants: what is missing or ambiguous is not allowed.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may read the metrics.
    Allowed,
    /// It has no token, or the API server does not accept it.
    Unauthenticated,
    /// Its user may not read the metrics.
    Forbidden,
}

/// The bearer token of a request. `None` also if there is more than one header of that name.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim_start();
    let is_token = !token.is_empty() && !token.contains(' ');
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

/// Asks whose token it is. Without audiences, only tokens for the API server itself are valid.
pub fn token_review(token: &str) -> TokenReview {
    TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            ..TokenReviewSpec::default()
        },
        ..TokenReview::default()
    }
}

/// The user of a token. `None` if the API server does not accept the token.
pub fn user(review: TokenReview) -> Option<UserInfo> {
    let status = review.status?;
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    let is_named = user.username.as_ref().is_some_and(|name| !name.is_empty());
    is_named.then_some(user)
}

/// Asks whether a user may `get` the non-resource URL `/metrics`.
pub fn access_review(user: UserInfo) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some("/metrics".to_owned()),
                verb: Some("get".to_owned()),
            }),
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// The access of an authenticated user.
pub fn access(review: &SubjectAccessReview) -> Access {
    match &review.status {
        Some(status) if status.allowed && status.denied != Some(true) => Access::Allowed,
        _ => Access::Forbidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{
        authentication::v1::TokenReviewStatus, authorization::v1::SubjectAccessReviewStatus,
    };

    fn headers(values: &[&str]) -> HeaderMap {
        let entries = values
            .iter()
            .map(|value| (AUTHORIZATION, value.parse().unwrap()));
        entries.collect()
    }

    #[test]
    fn only_one_bearer_token_counts() {
        for value in ["Bearer abc", "bearer abc", "BEARER   abc", " Bearer abc "] {
            assert_eq!(bearer_token(&headers(&[value])), Some("abc"), "{value}");
        }
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["abc"],
            &["Basic abc"],
            &["Bearerabc"],
            &["Bearer abc def"],
            &["Bearer abc", "Bearer abc"],
            &["Basic abc", "Bearer abc"],
        ] {
            assert_eq!(bearer_token(&headers(values)), None, "{values:?}");
        }
    }

    fn reviewed(authenticated: Option<bool>, username: Option<&str>) -> TokenReview {
        TokenReview {
            status: Some(TokenReviewStatus {
                authenticated,
                user: username.map(|name| UserInfo {
                    username: Some(name.to_owned()),
                    uid: Some("u".to_owned()),
                    groups: Some(vec!["system:authenticated".to_owned()]),
                    extra: Some([("k".to_owned(), vec!["v".to_owned()])].into()),
                }),
                ..TokenReviewStatus::default()
            }),
            ..token_review("abc")
        }
    }

    #[test]
    fn unaccepted_token_has_no_user() {
        assert!(user(token_review("abc")).is_none());
        assert!(user(reviewed(Some(false), Some("a"))).is_none());
        assert!(user(reviewed(None, Some("a"))).is_none());
        assert!(user(reviewed(Some(true), None)).is_none());
        assert!(user(reviewed(Some(true), Some(""))).is_none());
        assert!(user(reviewed(Some(true), Some("a"))).is_some());
    }

    #[test]
    fn access_review_carries_the_whole_user() {
        let user = user(reviewed(Some(true), Some("a"))).unwrap();
        let spec = access_review(user.clone()).spec;
        assert_eq!(spec.user, user.username);
        assert_eq!(spec.uid, user.uid);
        assert_eq!(spec.groups, user.groups);
        assert_eq!(spec.extra, user.extra);
        assert_eq!(spec.resource_attributes, None);
        let target = spec.non_resource_attributes.unwrap();
        assert_eq!(target.path.as_deref(), Some("/metrics"));
        assert_eq!(target.verb.as_deref(), Some("get"));
    }

    #[test]
    fn only_an_explicit_consent_allows() {
        let review = |allowed, denied| SubjectAccessReview {
            status: Some(SubjectAccessReviewStatus {
                allowed,
                denied,
                ..SubjectAccessReviewStatus::default()
            }),
            ..SubjectAccessReview::default()
        };
        assert_eq!(access(&review(true, None)), Access::Allowed);
        assert_eq!(access(&review(true, Some(false))), Access::Allowed);
        assert_eq!(access(&review(true, Some(true))), Access::Forbidden);
        assert_eq!(access(&review(false, None)), Access::Forbidden);
        assert_eq!(access(&SubjectAccessReview::default()), Access::Forbidden);
    }
}
