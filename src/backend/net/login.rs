//! Who logs in to a server, and how: asked anew for each connection, so that a password that changes is followed.

use crate::backend::net::config::{Password, Remote, Secret};
use crate::error::{Error, ErrorKind, Result};

impl Remote {
    /// Makes ready for TLS where the URL asks for it, and refuses its options where it doesn't.
    pub(crate) fn secure(&mut self) -> Result<()> {
        if !self.secure {
            let named = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
            let Some((name, _)) = named.into_iter().find(|(_, path)| path.is_some()) else { return Ok(()) };
            let text = format!("{name} is for servers with TLS, whose URL begins with {}", self.secure_scheme());
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        #[cfg(feature = "tls")]
        {
            self.tls = Some(crate::backend::net::tls::configure(self)?);
            Ok(())
        }
        #[cfg(not(feature = "tls"))]
        {
            let text = format!("{} needs the feature tls, which this build lacks", self.secure_scheme());
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }

    /// User and password, where there is either. A user without a password is one that any password lets in.
    pub(crate) fn login(&self) -> Result<Option<(Option<String>, Secret)>> {
        let password = self.password.as_ref().map(Password::get).transpose()?;
        if password.is_none() && self.user.is_none() {
            return Ok(None);
        }
        Ok(Some((self.user.clone(), password.unwrap_or_else(|| Secret(String::new())))))
    }
}

impl Password {
    fn get(&self) -> Result<Secret> {
        let refused = |text: String| Error::new(ErrorKind::Refused, text);
        match self {
            Password::Text(secret) => Ok(secret.clone()),
            Password::Env(name) => match std::env::var(name) {
                Ok(text) => Ok(Secret(text)),
                Err(_) => Err(refused(format!("password_env: the environment has no text named {name}"))),
            },
            Password::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| refused("password_file can't be read".to_owned()).at(path).because(e))?;
                Ok(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            Password::Call(call) => call()
                .map(Secret)
                .map_err(|e| refused("the program has no password for the server".to_owned()).because(e)),
        }
    }
}
