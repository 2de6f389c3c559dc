//! The page for operators: one document, one script, one style sheet, all in the binary. Nothing is asked of any
//! other host, and without JavaScript the document still is a table of how things stand.
use crate::Core;
use crate::auth::{Caller, Right};
use crate::body::Whole;
use crate::error::{ApiError, Why};
use crate::session::{self, COOKIE};
use crate::status::{HoldStatus, Status};
use crate::walls::follows_a_link;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::fmt::Write;
use std::sync::Arc;
use tidegate_http::Peer;

/// No inline script or style, nothing from elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 4] = [
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page.js"),
    ),
    ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    (
        "/uplot.js",
        "text/javascript; charset=utf-8",
        include_str!("uplot/uPlot.iife.min.js"),
    ),
    (
        "/uplot.css",
        "text/css; charset=utf-8",
        include_str!("uplot/uPlot.min.css"),
    ),
];

pub(crate) fn routes() -> Router<Arc<Core>> {
    let mut router = Router::new()
        .route("/", get(page))
        .route("/login", post(log_in))
        .route("/logout", post(log_out));
    for (path, kind, text) in FILES {
        let file = move || async move { ([(CONTENT_TYPE, kind)], text) };
        router = router.route(path, get(file));
    }
    router
}

/// What answers also those who have not said who they are: nothing of it tells anything.
pub(crate) fn is_open(request: &Request) -> bool {
    let path = request.uri().path();
    match *request.method() {
        Method::GET | Method::HEAD => path == "/" || FILES.iter().any(|(file, ..)| path == *file),
        Method::POST => matches!(path, "/login" | "/logout"),
        _ => false,
    }
}

async fn page(State(core): State<Arc<Core>>, request: Request) -> Response {
    if follows_a_link(&request) {
        return document(StatusCode::OK, &way_in());
    }
    let caller = request.extensions().get::<Caller>();
    let wants_a_document = request
        .headers()
        .get(ACCEPT)
        .is_some_and(|a| a.as_bytes().windows(9).any(|w| w == b"text/html"));
    match caller {
        Some(caller) => document(StatusCode::OK, &main(&core, caller)),
        None if wants_a_document => document(StatusCode::OK, &form(None)),
        None => ApiError::unauthorized("the page needs a login: open it in a browser").into_response(),
    }
}

async fn log_in(
    State(core): State<Arc<Core>>,
    peer: Option<Extension<Peer>>,
    body: Whole,
) -> Result<Response, ApiError> {
    let peer = peer.map(|Extension(peer)| peer);
    let fields = form_urlencoded::parse(body.bytes());
    let token = fields.into_iter().find(|(name, _)| name == "token");
    let token = token.map(|(_, token)| token.into_owned()).unwrap_or_default();
    if core.options.control.tokens.is_empty() {
        return Ok(to_the_page(None));
    }
    match core.auth.log_in(token.as_bytes(), peer.as_ref()).await {
        Ok(name) => Ok(to_the_page(Some(&cookie(&name, peer.as_ref(), "")))),
        Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
            let mut response = document(
                StatusCode::UNAUTHORIZED,
                &form(Some("No token of ours is like this one.")),
            );
            response
                .extensions_mut()
                .insert(Why("the page's form had a wrong token".into()));
            Ok(response)
        }
        Err(refusal) => Err(refusal),
    }
}

async fn log_out(
    State(core): State<Arc<Core>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    if let Some(name) = session::named(&headers) {
        core.auth.sessions.end(name);
    }
    let peer = peer.map(|Extension(peer)| peer);
    to_the_page(Some(&cookie("", peer.as_ref(), "; Max-Age=0")))
}

fn cookie(name: &str, peer: Option<&Peer>, more: &str) -> String {
    let secure = if peer.is_some_and(|p| p.tls) {
        "; Secure"
    } else {
        ""
    };
    format!("{COOKIE}={name}; Path=/; HttpOnly; SameSite=Strict{secure}{more}")
}

fn to_the_page(cookie: Option<&str>) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response();
    if let Some(cookie) = cookie.and_then(|c| HeaderValue::from_str(c).ok()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn document(status: StatusCode, html: &str) -> Response {
    let same = |name: &'static str| HeaderName::from_static(name);
    (
        status,
        [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_FRAME_OPTIONS, "DENY"),
            // Not no-referrer: under it browsers send the form with `Origin: null`, as if it came from elsewhere.
            (REFERRER_POLICY, "same-origin"),
            (same("cross-origin-opener-policy"), "same-origin"),
            (same("cross-origin-resource-policy"), "same-origin"),
        ],
        html.to_owned(),
    )
        .into_response()
}

/// Text from outside, as text.
fn esc(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn around(head: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>tidegate</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <link rel=\"stylesheet\" href=\"/uplot.css\">\n<link rel=\"stylesheet\" href=\"/page.css\">\n{head}</head>\n\
         {body}</html>\n"
    )
}

fn way_in() -> String {
    around(
        "<meta http-equiv=\"refresh\" content=\"0;url=/\">\n",
        "<body><main><p><a href=\"/\">Go to tidegate</a></p></main></body>\n",
    )
}

fn form(wrong: Option<&str>) -> String {
    let wrong = wrong
        .map(|w| format!("<p class=\"wrong\" role=\"alert\">{}</p>\n", esc(w)))
        .unwrap_or_default();
    around(
        "",
        &format!(
            "<body>\n<main class=\"login\">\n<h1>tidegate</h1>\n{wrong}<form method=\"post\" action=\"/login\">\n\
             <label for=\"token\">Token</label>\n\
             <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\n\
             <button>Log in</button>\n</form>\n</main>\n</body>\n"
        ),
    )
}

fn main(core: &Core, caller: &Caller) -> String {
    let base = core
        .options
        .control
        .base()
        .expect("`Admin::new` has refused a base path that is none");
    let rights: Vec<&str> = caller.rights().iter().map(|r| r.word()).collect();
    let may_read = caller.rights().contains(&Right::Read);
    let now = if may_read {
        tables(&Status::now(core))
    } else {
        "<p>This token may not see how things stand: it does not have the right \"read\".</p>\n".into()
    };
    let log_out = if core.options.control.tokens.is_empty() {
        String::new()
    } else {
        "<form method=\"post\" action=\"/logout\"><button class=\"quiet\">Log out</button></form>".into()
    };
    let head = "<script src=\"/uplot.js\" defer></script>\n<script src=\"/page.js\" defer></script>\n\
                <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n";
    let body = format!(
        "<body data-base=\"{}\" data-rights=\"{}\">\n<a class=\"skip\" href=\"#main\">Skip to the streams</a>\n\
         <header>\n<h1>tidegate</h1>\n<p id=\"live\" role=\"status\"></p>\n<p class=\"actor\">{}</p>\n{log_out}\n</header>\n\
         <main id=\"main\" tabindex=\"-1\">\n<noscript><p>Without JavaScript this table is read again every five \
         seconds.</p></noscript>\n<div id=\"now\">\n{now}</div>\n</main>\n</body>\n",
        esc(&base),
        esc(&rights.join(" ")),
        esc(&caller.actor),
    );
    around(head, &body)
}

/// What is seen without JavaScript, and before it has heard anything.
fn tables(status: &Status) -> String {
    let mut html = String::new();
    for alarm in &status.alarms {
        let _ = writeln!(html, "<p class=\"wrong\">{}</p>", esc(alarm));
    }
    let _ = write!(
        html,
        "<div class=\"wide\"><table>\n<caption>Streams and gates at {}</caption>\n<thead><tr><th scope=\"col\">Name</th>\
         <th scope=\"col\">Kind</th><th scope=\"col\">State</th><th scope=\"col\">In flight</th>\
         <th scope=\"col\">Held</th><th scope=\"col\">Held by</th><th scope=\"col\">Error</th></tr></thead>\n<tbody>\n",
        esc(&status.at)
    );
    for stream in &status.streams {
        let holds: Vec<String> = stream.holds.iter().map(told).collect();
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><span class=\"state {1}-kind s-{state}\">{state}</span></td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            esc(&stream.name),
            esc(&stream.kind),
            stream.in_flight,
            stream.held,
            holds.join("<br>"),
            esc(stream.error.as_deref().unwrap_or("")),
            state = esc(&stream.state),
        );
    }
    html.push_str(
        "</tbody>\n</table></div>\n<div class=\"wide\"><table>\n<caption>Switches</caption>\n<thead><tr><th scope=\"col\">Name\
         </th><th scope=\"col\">Reading</th><th scope=\"col\">Version</th><th scope=\"col\">Age</th>\
         <th scope=\"col\">Error</th></tr></thead>\n<tbody>\n",
    );
    for switch in &status.switches {
        let age = switch
            .age_seconds
            .map(|s| format!("{s:.0} s"))
            .unwrap_or_default();
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{age}</td><td>{}</td></tr>",
            esc(&switch.name),
            esc(&switch.reading),
            esc(switch.version.as_deref().unwrap_or("")),
            esc(switch.error.as_deref().unwrap_or("")),
        );
    }
    html.push_str("</tbody>\n</table></div>\n");
    html
}

fn told(hold: &HoldStatus) -> String {
    let mut text = esc(&hold.controller);
    for (word, value) in [
        (": ", &hold.reason),
        (", by ", &hold.by),
        (", as ", &hold.actor),
        (", until ", &hold.until),
    ] {
        if let Some(value) = value {
            let _ = write!(text, "{word}{}", esc(value));
        }
    }
    let _ = write!(text, ", since {}", esc(&hold.since));
    text
}
