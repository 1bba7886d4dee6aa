use crate::{Error, Fields};
use zbus::zvariant::{OwnedValue, Value};

/// A value for an `a{sv}` answer. Never fails: none of our values holds a descriptor.
pub fn field<'a>(value: impl Into<Value<'a>>) -> OwnedValue {
    let value: Value<'a> = value.into();
    value.try_to_owned().expect("no descriptor inside a{sv}")
}

/// An `a{sv}` answer of these members.
pub fn fields<const N: usize>(members: [(&str, OwnedValue); N]) -> Fields {
    members.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Reading members of an `a{sv}`: absent and of another type are told apart.
pub trait FieldsExt {
    /// The member, or None when absent; InvalidArgument when of another type.
    fn optional<T: TryFrom<OwnedValue>>(&self, name: &str) -> Result<Option<T>, Error>;
    /// The member; InvalidArgument when absent or of another type.
    fn required<T: TryFrom<OwnedValue>>(&self, name: &str) -> Result<T, Error> {
        self.optional(name)?
            .ok_or_else(|| Error::InvalidArgument(format!("the member {name} is missing")))
    }
}

impl FieldsExt for Fields {
    fn optional<T: TryFrom<OwnedValue>>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let owned = value
            .try_clone()
            .map_err(|_| Error::InvalidArgument(format!("the member {name} cannot be copied")))?;
        T::try_from(owned)
            .map(Some)
            .map_err(|_| Error::InvalidArgument(format!("the member {name} is of another type")))
    }
}
