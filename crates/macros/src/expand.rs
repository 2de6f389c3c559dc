//! What the attribute makes of a function.
use crate::options::Options;
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{
    Error, GenericArgument, ItemFn, PathArguments, ReturnType, Type, TypeImplTrait, TypeParamBound, TypePath,
};

pub(crate) fn expand(options: TokenStream, function: TokenStream) -> syn::Result<TokenStream> {
    let options: Options = syn::parse2(options)?;
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
    } = syn::parse2(function).map_err(|e| {
        Error::new(
            e.span(),
            "#[unit_of_work] counts runs of a function: put it on a function or method that has a body",
        )
    })?;
    if let Some(is_const) = sig.constness {
        return Err(Error::new(
            is_const.span(),
            "a const fn may run in the compiler, where there is nothing to count",
        ));
    }
    let shape = Shape::of(&sig.output, sig.asyncness.is_some())?;
    let support = quote!(::tidegate_gate::macro_support);
    let gate = &options.gate;
    let name = match &options.name {
        Some(name) => quote!(#name),
        None => {
            let function = sig.ident.to_string();
            let function = function.trim_start_matches("r#");
            quote!(::core::concat!(::core::module_path!(), "::", #function))
        }
    };
    let gate = quote_spanned!(gate.span()=> #support::gate(&(#gate)));
    let enter = match &options.wait {
        None => quote!(#support::count(#gate, #name)),
        Some(_) if shape == Shape::Async => quote!({
            let __gate = #gate;
            #support::pass(__gate, #name).await
        }),
        Some(wait) => {
            return Err(Error::new(
                wait.span(),
                "only an `async fn` can wait for its gate: any other function would block its thread",
            ));
        }
    };
    let body = match shape {
        Shape::Async | Shape::Sync => {
            let finished = finished(&sig.output, &support);
            quote! {
                #finished
                let __unit_of_work = #enter;
                #block
            }
        }
        // A closure of its own, so that `return` in the body returns the future and not past the count.
        Shape::Future => quote! {
            let __unit_of_work = #enter;
            let __future = (move || #block)();
            async move {
                let _until_the_end = __unit_of_work;
                __future.await
            }
        },
        Shape::Boxed => {
            let ReturnType::Type(_, returned) = &sig.output else {
                unreachable!("a boxed future is returned by name");
            };
            quote! {
                let __unit_of_work = #enter;
                let __future = (move || -> #returned #block)();
                ::std::boxed::Box::pin(async move {
                    let _until_the_end = __unit_of_work;
                    __future.await
                })
            }
        }
    };
    Ok(quote! {
        #(#attrs)*
        #vis #sig {
            #body
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Sync,
    Async,
    Future,
    Boxed,
}

impl Shape {
    fn of(output: &ReturnType, is_async: bool) -> syn::Result<Shape> {
        let ReturnType::Type(_, returned) = output else {
            return Ok(if is_async { Shape::Async } else { Shape::Sync });
        };
        let shape = match &**returned {
            Type::ImplTrait(t) if names(t, "Future") => Shape::Future,
            Type::Path(t) if is_boxed_future(t) => Shape::Boxed,
            _ => Shape::Sync,
        };
        if is_async && shape != Shape::Sync {
            return Err(Error::new(
                returned.span(),
                "an async fn that returns a future: nobody can say when its work ends; await the future inside, or \
                 make this a plain fn",
            ));
        }
        if shape == Shape::Sync {
            Lazy(Ok(())).checked(returned)?;
        }
        Ok(if is_async { Shape::Async } else { shape })
    }
}

/// Whether one of the bounds of `impl …` is this trait.
fn names(of: &TypeImplTrait, name: &str) -> bool {
    of.bounds.iter().any(|b| bound_is(b, name))
}

fn bound_is(bound: &TypeParamBound, name: &str) -> bool {
    matches!(bound, TypeParamBound::Trait(t) if t.path.segments.last().is_some_and(|s| s.ident == name))
}

/// `Pin<Box<dyn Future …>>`, `BoxFuture<…>`, `LocalBoxFuture<…>`.
fn is_boxed_future(of: &TypePath) -> bool {
    let Some(last) = of.path.segments.last() else {
        return false;
    };
    if last.ident == "BoxFuture" || last.ident == "LocalBoxFuture" {
        return true;
    }
    let Some(Type::Path(boxed)) = (last.ident == "Pin")
        .then(|| only_type(&last.arguments))
        .flatten()
    else {
        return false;
    };
    let Some(last) = boxed.path.segments.last().filter(|s| s.ident == "Box") else {
        return false;
    };
    matches!(
        only_type(&last.arguments),
        Some(Type::TraitObject(t)) if t.bounds.iter().any(|b| bound_is(b, "Future"))
    )
}

fn only_type(arguments: &PathArguments) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return None;
    };
    arguments.args.iter().find_map(|a| match a {
        GenericArgument::Type(t) => Some(t),
        _ => None,
    })
}

/// Looks for work that would begin after the return.
struct Lazy(syn::Result<()>);

impl Lazy {
    fn checked(mut self, returned: &Type) -> syn::Result<()> {
        self.visit_type(returned);
        self.0
    }
}

impl Visit<'_> for Lazy {
    fn visit_type_param_bound(&mut self, bound: &TypeParamBound) {
        let what = [
            (
                "Future",
                "a future inside another type: return it alone, or count the work that it stands for",
            ),
            (
                "Stream",
                "a stream begins its work after the return: put `.gated(gate)` on it instead",
            ),
            (
                "Iterator",
                "an iterator begins its work after the return: take a unit for each item instead",
            ),
        ];
        if let Some((_, why)) = what.iter().find(|(name, _)| bound_is(bound, name)) {
            self.0 = Err(Error::new(bound.span(), why));
        }
        syn::visit::visit_type_param_bound(self, bound);
    }
    // What a closure or a function pointer returns is not returned by this function.
    fn visit_parenthesized_generic_arguments(&mut self, _: &syn::ParenthesizedGenericArguments) {}
    fn visit_type_bare_fn(&mut self, _: &syn::TypeBareFn) {}
}

/// A check by type, for what the name of a type does not tell: an alias of a future, a `JoinHandle`.
fn finished(output: &ReturnType, support: &TokenStream) -> TokenStream {
    let ReturnType::Type(_, returned) = output else {
        return TokenStream::new();
    };
    if !nameable(returned) {
        return TokenStream::new();
    }
    quote_spanned! {returned.span()=>
        let _ = <#returned as #support::ReturnsNoFuture<_>>::CHECKED;
    }
}

/// `impl Trait`, `!` and types with elided lifetimes in paths cannot be repeated inside the body.
fn nameable(of: &Type) -> bool {
    struct Unnameable(bool);
    impl Visit<'_> for Unnameable {
        fn visit_type_impl_trait(&mut self, _: &TypeImplTrait) {
            self.0 = true;
        }
        fn visit_type_never(&mut self, _: &syn::TypeNever) {
            self.0 = true;
        }
    }
    let mut found = Unnameable(false);
    found.visit_type(of);
    !found.0
}
