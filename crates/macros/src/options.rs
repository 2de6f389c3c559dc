//! What stands in the parentheses.
use syn::parse::{Parse, ParseStream};
use syn::{Expr, Ident, LitStr, Token};

pub(crate) struct Options {
    pub(crate) gate: Expr,
    pub(crate) wait: Option<Ident>,
    pub(crate) name: Option<LitStr>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Options> {
        if input.is_empty() {
            return Err(syn::Error::new(
                proc_macro2::Span::call_site(),
                "name the gate that counts: #[unit_of_work(APP)], where APP is a Gate, a Member, or a LazyLock of one",
            ));
        }
        let mut options = Options {
            gate: input.parse()?,
            wait: None,
            name: None,
        };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let option: Ident = input.parse()?;
            match option.to_string().as_str() {
                "wait" if options.wait.is_none() => options.wait = Some(option),
                "name" if options.name.is_none() => {
                    input.parse::<Token![=]>()?;
                    options.name = Some(input.parse()?);
                }
                _ => {
                    return Err(syn::Error::new(
                        option.span(),
                        "expected `wait` or `name = \"…\"`, each once",
                    ));
                }
            }
        }
        Ok(options)
    }
}
