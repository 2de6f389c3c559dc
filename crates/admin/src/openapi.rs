//! The OpenAPI 3.1 document of both surfaces, with the base path as it is configured.
use crate::Core;
use crate::auth::{May, ToRead};
use crate::{actuator, drain, drill, flowtide, history, metrics, probes, status, watch};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "tidegate",
        description = "Control (private: pause, resume, override, drain, status, watch) and observe (read-only). \
            Where tokens are set, every control call needs one; a call without the right it needs gets 403, a call \
            without a token 401, a wrong method 405 with Allow, a body over 64 KiB 413. Every refusal is \
            {\"error\": \"one sentence\"}. The observe listener's own /status has the shape of the control listener's, \
            without reasons, actors, addresses and errors.",
        license(name = "Apache-2.0 OR MIT"),
    ),
    tags((name = "control", description = "On the control listener"), (name = "observe", description = "On the observe listener")),
    paths(
        flowtide::pause_all, flowtide::resume_all, flowtide::pause_one, flowtide::resume_one, flowtide::set_aside,
        flowtide::poll, drill::drill, drain::drain, status::full, watch::watch, history::history, serve, probes::alive, probes::ready, metrics::serve,
        actuator::on, actuator::off, actuator::hiatus, actuator::hiatus_of, actuator::health,
    ),
    components(schemas(status::Change)),
)]
struct Document;

/// Paths that the base path does not come before.
const FIXED: [&str; 4] = ["/openapi.json", "/livez", "/readyz", "/metrics"];

pub(crate) fn document(base: &str) -> Bytes {
    let mut document = Document::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").into();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", bearer);
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        let control = [&mut item.get, &mut item.post].into_iter().flatten();
        for operation in control.filter(|o| o.tags.iter().flatten().any(|t| t == "control")) {
            // The empty requirement is for listeners without tokens.
            let either = [
                SecurityRequirement::new("token", [""; 0]),
                SecurityRequirement::default(),
            ];
            operation.security = Some(either.into());
        }
        let path = if FIXED.contains(&path.as_str()) || path.starts_with("/actuator/") {
            path
        } else {
            format!("{base}{path}")
        };
        document.paths.paths.insert(path, item);
    }
    Bytes::from(document.to_json().expect("the document is plain data"))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "control", responses(
    (status = 200, description = "This document.", content_type = "application/json"),
))]
pub(crate) async fn serve(State(core): State<Arc<Core>>, _: May<ToRead>) -> Response {
    ([(CONTENT_TYPE, "application/json")], core.openapi.clone()).into_response()
}
