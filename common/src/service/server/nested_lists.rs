//! Lists of requests that the fields of the outermost message do not show: lists within lists, and packed numbers.
//!
//! Which memory a request takes is estimated before it is decoded, by the number of its fields (see `message_scan`). To count
//! every field of every message would take the contents of documents for messages. So the few fields whose content has to be
//! looked at are named here, and a test compares them with the API's descriptors: a list that is added to the API and
//! not here fails it.

/// Why the content of a field is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NestedList {
    /// A message that has lists: its fields count.
    Messages,
    /// Numbers without tags, each of which takes one byte or more.
    Packed,
}

/// The number of each such field of a method's request. `path` is that of the call.
pub(super) fn nested_lists(path: &str) -> &'static [(u64, NestedList)] {
    use NestedList::{Messages, Packed};
    match path.strip_prefix("/driftdb.v1.WriterService/").unwrap_or_default() {
        "Apply" => &[(2, Messages)],
        "Ingest" => &[(41, Packed), (42, Messages)],
        "CreateTable" => &[(70, Messages)],
        "AlterTable" => &[(70, Messages), (71, Messages)],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::Message;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

    use super::*;

    type Messages = HashMap<String, DescriptorProto>;

    fn add(to: &mut Messages, scope: &str, messages: &[DescriptorProto]) {
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            add(to, &name, &message.nested_type);
            to.insert(name, message.clone());
        }
    }

    fn is_list(field: &FieldDescriptorProto) -> bool {
        field.label() == Label::Repeated
    }

    /// Whether a message has a list, at any depth.
    fn has_lists(messages: &Messages, name: &str) -> bool {
        // Times and durations, which are not in the set.
        if name.starts_with(".google.protobuf.") {
            return false;
        }
        messages[name].field.iter().any(|field| {
            is_list(field) || field.r#type() == Type::Message && has_lists(messages, field.type_name())
        })
    }

    fn expected(messages: &Messages, request: &str) -> Vec<(u64, NestedList)> {
        let mut lists = Vec::new();
        for field in &messages[request].field {
            let number = u64::try_from(field.number()).unwrap();
            match field.r#type() {
                Type::Message if has_lists(messages, field.type_name()) => {
                    let deeper = messages[field.type_name()]
                        .field
                        .iter()
                        .filter(|inner| inner.r#type() == Type::Message);
                    for inner in deeper {
                        assert!(
                            !has_lists(messages, inner.type_name()),
                            "{request}.{}.{}: the scan looks one level deep",
                            field.name(),
                            inner.name()
                        );
                    }
                    lists.push((number, NestedList::Messages));
                }
                Type::Message | Type::String | Type::Bytes => {}
                _ if is_list(field) => lists.push((number, NestedList::Packed)),
                _ => {}
            }
        }
        lists.sort_by_key(|(number, _)| *number);
        lists
    }

    #[test]
    fn every_list_that_the_outermost_fields_do_not_show_is_named() {
        let mut requests = 0;
        for set in [driftdb::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = FileDescriptorSet::decode(set).unwrap();
            let mut messages = Messages::new();
            for file in &set.file {
                add(&mut messages, &format!(".{}", file.package()), &file.message_type);
            }
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        assert_eq!(nested_lists(&path), expected(&messages, method.input_type()), "{path}");
                        requests += 1;
                    }
                }
            }
        }
        assert!(requests > 20, "{requests}");
    }
}
