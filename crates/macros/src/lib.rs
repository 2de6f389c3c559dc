//! The [`macro@unit_of_work`] attribute, re-exported by `tidegate-gate`: take it from there.
mod expand;
mod options;

use proc_macro::TokenStream;

/// Counts every run of a function as a unit of work at a gate, from its call until its work is done: also when it
/// fails, panics or is cancelled.
///
/// ```
/// use std::sync::LazyLock;
/// use tidegate_gate::{Gate, unit_of_work};
///
/// static APP: LazyLock<Gate> = LazyLock::new(|| Gate::new("app").0);
///
/// #[unit_of_work(APP)]
/// async fn order(id: u64) -> Result<String, std::num::ParseIntError> {
///     assert_eq!(APP.sight().in_flight, 1);
///     Ok(format!("order {id}"))
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// order(7).await?;
/// assert_eq!(APP.sight().in_flight, 0);
/// # Ok::<(), std::num::ParseIntError>(()) }).unwrap();
/// ```
///
/// The argument is any expression whose value names a gate (`AsGate`): a `Gate`, a `Member`, a reference, an `Arc`
/// or a `LazyLock` of one. It may use the function's arguments: `#[unit_of_work(self.gate)]`.
///
/// **It counts and does not stop**, as Hiatus's `@UnitOfWork`: what is called runs. Put it on a gate that serves on
/// while it is held (`Kind::Gate { serves: true }`). At a gate that closes, write `#[unit_of_work(APP, wait)]` on an
/// `async fn`: its work then begins when the gate is open, and dropping the future while it waits leaves nothing
/// behind. Work that was only counted could begin after a pause was proven.
///
/// Status and drain list the unit by the function's path, `app::orders::order`; `name = "…"` gives another.
///
/// | function | counted |
/// |---|---|
/// | `fn` | from the call to the return |
/// | `async fn` | from the first poll to the end, or until the future is dropped |
/// | `fn … -> impl Future` | from the call to the end of the future, or until it is dropped |
/// | `fn … -> Pin<Box<dyn Future>>`, also as `BoxFuture`, also what `async-trait` makes of a method | as `impl Future` |
///
/// What it cannot count is an error and not silence: a future that hides behind another type, or inside one; a
/// stream or iterator, whose work begins after the return; a `const fn`; a method without a body.
#[proc_macro_attribute]
pub fn unit_of_work(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(options.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
