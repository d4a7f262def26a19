// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/validate.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cloister/base/status_macros.h"
#include "cloister/vmm/size.h"

namespace cloister::api {
namespace {

// What a message quotes of a request.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 80)),
                      text.size() > 80 ? "..." : "", "\"");
}

absl::Status Wrong(const Field& field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field.name, ": ", what));
}

absl::Status ExpectedInteger(const Field& field) {
  return Wrong(field, absl::StrCat("expected an integer from ", field.minimum,
                                   " to ", field.maximum));
}

absl::Status ValidateInteger(const Field& field, const Json& value) {
  if (!value.is_number_unsigned()) {
    // A negative number, a fraction, or more than 64 bits.
    return ExpectedInteger(field);
  }
  const uint64_t number = value.get<uint64_t>();
  if (number < field.minimum || number > field.maximum) {
    return ExpectedInteger(field);
  }
  return absl::OkStatus();
}

absl::Status ValidateChoice(const Field& field, Json* value) {
  const std::string& text = value->get_ref<const std::string&>();
  for (absl::string_view choice : absl::StrSplit(field.choices, '|')) {
    if (field.any_case ? absl::EqualsIgnoreCase(text, choice)
                       : text == choice) {
      *value = std::string(choice);
      return absl::OkStatus();
    }
  }
  return Wrong(
      field, absl::StrCat("expected ", field.choices, ", not ", Quoted(text)));
}

absl::Status ValidateText(const Field& field, Json* value) {
  if (!value->is_string()) return Wrong(field, "expected a text");
  const std::string& text = value->get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) {
    return Wrong(field, "holds a NUL");
  }
  if (!field.choices.empty()) return ValidateChoice(field, value);
  if (text.size() < field.minimum || text.size() > field.maximum) {
    return Wrong(field, absl::StrCat("expected ", field.minimum, " to ",
                                     field.maximum, " bytes of text"));
  }
  return absl::OkStatus();
}

absl::Status ValidateNumber(const Field& field, Json* value) {
  auto number = NumberOf(*value, field.type);
  if (!number.ok()) return Wrong(field, number.status().message());
  *value = *number;
  return absl::OkStatus();
}

absl::Status ValidateElements(const Field& field, Json* value) {
  if (!value->is_array()) return Wrong(field, "expected a list");
  if (value->size() < field.minimum || value->size() > field.maximum) {
    return Wrong(field, absl::StrCat("expected ", field.minimum, " to ",
                                     field.maximum, " elements"));
  }
  for (Json& element : *value) {
    if (field.type == Type::kTexts) {
      if (!element.is_string()) return Wrong(field, "expected a list of texts");
    } else if (absl::Status status = ValidateObject(*field.object, &element);
               !status.ok()) {
      return Wrong(field, status.message());
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTextMap(const Field& field, const Json& value) {
  if (!value.is_object()) return Wrong(field, "expected an object");
  if (value.size() > field.maximum) {
    return Wrong(field,
                 absl::StrCat("expected at most ", field.maximum, " members"));
  }
  for (const Json& member : value) {
    if (!member.is_string()) return Wrong(field, "its values must be texts");
  }
  return absl::OkStatus();
}

// Whether a field that is absent here asks for nothing.
bool IsNeutral(const Field& field, const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_array() || value.is_object()) return value.empty();
  return value.is_string() && !field.choices.empty() &&
         absl::StartsWith(field.choices, value.get_ref<const std::string&>()) &&
         !value.get_ref<const std::string&>().empty();
}

absl::Status ValidateField(const Field& field, Json* value) {
  if (field.absent) {
    return IsNeutral(field, *value) ? absl::OkStatus()
                                    : Wrong(field, "not supported");
  }
  switch (field.type) {
    case Type::kText:
    case Type::kHex:
      return ValidateText(field, value);
    case Type::kInteger:
      return ValidateInteger(field, *value);
    case Type::kBoolean:
      return value->is_boolean() ? absl::OkStatus()
                                 : Wrong(field, "expected true or false");
    case Type::kObject:
      if (absl::Status status = ValidateObject(*field.object, value);
          !status.ok()) {
        return Wrong(field, status.message());
      }
      return absl::OkStatus();
    case Type::kObjects:
    case Type::kTexts:
      return ValidateElements(field, value);
    case Type::kTextMap:
      return ValidateTextMap(field, *value);
    case Type::kAddress:
    case Type::kSize:
      return ValidateNumber(field, value);
  }
  return Wrong(field, "not supported");
}

const Field* FindField(absl::Span<const Field> fields, absl::string_view name) {
  for (const Field& field : fields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

absl::Status ValidateMembers(absl::Span<const Field> fields, Json* value) {
  for (const auto& [name, member] : value->items()) {
    if (FindField(fields, name) == nullptr) {
      std::vector<absl::string_view> known;
      for (const Field& field : fields) known.push_back(field.name);
      return absl::InvalidArgumentError(
          absl::StrCat("unknown field ", Quoted(name),
                       "; known: ", absl::StrJoin(known, ", ")));
    }
  }
  for (const Field& field : fields) {
    auto found = value->find(std::string(field.name));
    if (found != value->end() && found->is_null()) {
      value->erase(found);
      found = value->end();
    }
    if (found == value->end()) {
      if (field.required) return Wrong(field, "missing");
      continue;
    }
    RETURN_IF_ERROR(ValidateField(field, &*found));
  }
  return absl::OkStatus();
}

// Whether `path` fits `pattern`; then `id` is what its braces stand for.
bool Matches(absl::string_view pattern, absl::string_view path,
             std::string* id) {
  const size_t brace = pattern.find('{');
  if (brace == absl::string_view::npos) return pattern == path;
  if (!absl::ConsumePrefix(&path, pattern.substr(0, brace))) return false;
  if (path.empty() || path.find('/') != absl::string_view::npos) return false;
  *id = std::string(path);
  return true;
}

// Reads one value of a query as the JSON that its field expects.
Json QueryValue(const Field& field, absl::string_view text) {
  uint64_t number;
  if (field.type == Type::kInteger && absl::SimpleAtoi(text, &number)) {
    return number;
  }
  return std::string(text);
}

}  // namespace

absl::StatusOr<uint64_t> NumberOf(const Json& value, Type type) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  const char* expected =
      type == Type::kSize ? "expected a size: a number of bytes, \"0x1000\" or "
                            "\"64MiB\""
                          : "expected an address: an integer or \"0x1000\"";
  if (!value.is_string()) return absl::InvalidArgumentError(expected);
  const std::string& text = value.get_ref<const std::string&>();
  if (type == Type::kSize) {
    auto size = vmm::ParseSize(text);
    return size.ok() ? size : absl::InvalidArgumentError(expected);
  }
  uint64_t number;
  absl::string_view digits = text;
  const bool hex = absl::ConsumePrefix(&digits, "0x");
  // Only digits: absl's parsers allow signs, spaces and prefixes.
  const bool plain =
      !digits.empty() &&
      std::all_of(digits.begin(), digits.end(),
                  hex ? absl::ascii_isxdigit : absl::ascii_isdigit);
  if (plain && (hex ? absl::SimpleHexAtoi(digits, &number)
                    : absl::SimpleAtoi(digits, &number))) {
    return number;
  }
  return absl::InvalidArgumentError(expected);
}

absl::StatusOr<const Endpoint*> FindEndpoint(absl::string_view method,
                                             absl::string_view target,
                                             std::string* id,
                                             std::string* query) {
  const size_t mark = target.find('?');
  const absl::string_view path = target.substr(0, mark);
  *query = mark == absl::string_view::npos
               ? std::string()
               : std::string(target.substr(mark + 1));
  for (const Endpoint& endpoint : Endpoints()) {
    if (MethodName(endpoint.method) != method) continue;
    id->clear();
    if (Matches(endpoint.path, path, id)) return &endpoint;
  }
  return absl::NotFoundError(
      absl::StrCat("no such method and path: ", absl::CHexEscape(method), " ",
                   absl::CHexEscape(path.substr(0, 200))));
}

absl::Status ValidateObject(const Object& object, Json* value) {
  if (!value->is_object()) {
    return absl::InvalidArgumentError("expected an object");
  }
  return ValidateMembers(object.fields, value);
}

absl::StatusOr<Json> ParseQuery(const Endpoint& endpoint,
                                absl::string_view query) {
  Json value = Json::object();
  if (query.empty()) return value;
  for (absl::string_view part : absl::StrSplit(query, '&')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const Field* field = FindField(endpoint.query, pair.first);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown query parameter ", Quoted(pair.first)));
    }
    const std::string name(pair.first);
    if (value.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("query parameter ", name, " appears twice"));
    }
    value[name] = QueryValue(*field, pair.second);
  }
  RETURN_IF_ERROR(ValidateMembers(endpoint.query, &value));
  return value;
}

absl::StatusOr<Json> ParseBody(const Endpoint& endpoint,
                               absl::string_view body) {
  if (endpoint.body == nullptr) {
    if (body.empty()) return Json::object();
    return absl::InvalidArgumentError("this request takes no body");
  }
  if (body.empty()) return absl::InvalidArgumentError("the body is missing");
  ASSIGN_OR_RETURN(Json value, ParseJson(body));
  RETURN_IF_ERROR(ValidateObject(*endpoint.body, &value));
  return value;
}

void ShowAddresses(const Object& object, Json* value) {
  if (!value->is_object()) return;
  for (const Field& field : object.fields) {
    auto found = value->find(std::string(field.name));
    if (found == value->end()) continue;
    const bool number =
        field.type == Type::kAddress || field.type == Type::kSize;
    if (number && found->is_number_unsigned()) {
      *found = HexText(found->get<uint64_t>());
    }
    if (field.object == nullptr) continue;
    if (field.type == Type::kObject) ShowAddresses(*field.object, &*found);
    if (field.type != Type::kObjects || !found->is_array()) continue;
    for (Json& element : *found) ShowAddresses(*field.object, &element);
  }
}

void AddDefaults(const Object& object, Json* value) {
  for (const Field& field : object.fields) {
    if (field.fallback.empty() || value->contains(std::string(field.name))) {
      continue;
    }
    // The schema's own text: its test parses each of them.
    auto fallback = ParseJson(field.fallback);
    if (fallback.ok()) (*value)[std::string(field.name)] = *fallback;
  }
}

}  // namespace cloister::api
