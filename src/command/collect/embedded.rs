//! The page at `/`: files of this program, as they are in `page/`. They ask the query API and nobody else; their policy
//! lets a browser load nothing from elsewhere and run nothing that is not one of them.

use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use vmkpi::web::{Pieces, answer};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
/// What is on the page is from here, and it is framed by nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! files {
    ($($path:literal $kind:ident $file:literal,)*) => {
        [$(($path, $kind, include_str!(concat!("page/", $file))),)*]
    };
}

/// Path, content type and content of each file.
const FILES: [(&str, &str, &str); 12] = files![
    "/" HTML "index.html",
    "/page.css" CSS "page.css",
    "/icon.svg" SVG "icon.svg",
    "/page.mjs" JAVASCRIPT "page.mjs",
    "/api.mjs" JAVASCRIPT "api.mjs",
    "/chart.mjs" JAVASCRIPT "chart.mjs",
    "/events.mjs" JAVASCRIPT "events.mjs",
    "/lists.mjs" JAVASCRIPT "lists.mjs",
    "/place.mjs" JAVASCRIPT "place.mjs",
    "/scale.mjs" JAVASCRIPT "scale.mjs",
    "/series.mjs" JAVASCRIPT "series.mjs",
    "/words.mjs" JAVASCRIPT "words.mjs",
];

/// The file at this path, or that the browser has it; `None`: there is none.
pub fn respond(request: &Request<Incoming>) -> Option<Response<Pieces>> {
    file(request.uri().path(), request.headers())
}

fn file(path: &str, headers: &HeaderMap) -> Option<Response<Pieces>> {
    let (_, kind, content) = FILES.into_iter().find(|(at, ..)| *at == path)?;
    let tag = tag(content);
    let known = headers.get_all(IF_NONE_MATCH).iter();
    let mut known = known.filter_map(|value| value.to_str().ok());
    let mut response = match known.any(|tags| tags.contains(&tag)) {
        true => answer(StatusCode::NOT_MODIFIED, kind, ""),
        false => answer(StatusCode::OK, kind, content),
    };
    let headers = response.headers_mut();
    // Another version may answer the next time, so each time is asked.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Some(guarded(response))
}

/// The same answer, which no browser takes for something else, nor hands to another site's page.
pub fn guarded(mut response: Response<Pieces>) -> Response<Pieces> {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let own = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-resource-policy", own);
    response
}

/// What tells one version of a file from another (RFC 9110, section 8.8.3).
fn tag(content: &str) -> String {
    let digest = Sha256::digest(content.as_bytes());
    let digits: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    format!("\"{digits}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_once_and_then_only_when_it_has_changed() {
        let mut headers = HeaderMap::new();
        let first = file("/page.mjs", &headers).unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()["content-type"], JAVASCRIPT);
        assert_eq!(first.headers()["cache-control"], "no-cache");
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        headers.insert(IF_NONE_MATCH, format!("W/\"x\", {tag}").parse().unwrap());
        let again = file("/page.mjs", &headers).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(
            file("/page.css", &headers).unwrap().status(),
            StatusCode::OK
        );
        assert!(file("/none.mjs", &headers).is_none());
        assert!(file("/../page.rs", &headers).is_none());
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_run_from_within_the_text() {
        for (path, kind, content) in FILES {
            // The names of XML's vocabularies are no addresses.
            let own = content.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !own.contains("http://") && !own.contains("https://"),
                "{path}"
            );
            if kind == JAVASCRIPT {
                for sink in [
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                ] {
                    assert!(!content.contains(sink), "{path}: {sink}");
                }
            }
            if kind == HTML {
                assert!(
                    !content.contains("style=") && !content.contains("<style"),
                    "{path}"
                );
                let handles = |word: &str| word.starts_with("on") && word.contains('=');
                assert!(!content.split_whitespace().any(handles), "{path}");
            }
        }
        for word in ["unsafe", "*", "data:", "http"] {
            assert!(!POLICY.contains(word), "{word}");
        }
    }

    #[test]
    fn each_module_that_is_imported_is_there() {
        for (path, _, content) in FILES {
            for import in content.split(" from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                let at = format!("/{name}");
                assert!(FILES.iter().any(|file| file.0 == at), "{path}: {name}");
            }
        }
    }
}
