// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/openapi.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/api/schema.h"
#include "cloister/api/schema_objects.h"

namespace cloister::api {
namespace {

constexpr char kSizePattern[] =
    "^(0x[0-9a-fA-F]+|[0-9]+ *([KMGTkmgt]([iI]?[bB])?)?)$";

Json Reference(const Object& object) {
  return {{"$ref", absl::StrCat("#/components/schemas/", object.name)}};
}

// A parsed default of the schema; its test sees that it parses.
Json Fallback(const Field& field) {
  return Json::parse(std::string(field.fallback), nullptr, false);
}

Json TextSchema(const Field& field) {
  Json json = {{"type", "string"}};
  if (!field.choices.empty()) {
    for (absl::string_view choice : absl::StrSplit(field.choices, '|')) {
      json["enum"].push_back(std::string(choice));
    }
    return json;
  }
  if (field.minimum > 0) json["minLength"] = field.minimum;
  if (field.maximum != kMaxInteger) json["maxLength"] = field.maximum;
  return json;
}

Json ListSchema(const Field& field) {
  Json items = {{"type", "object"}};
  if (field.type == Type::kTexts) items = {{"type", "string"}};
  if (field.object != nullptr) items = Reference(*field.object);
  Json json = {{"type", "array"}, {"items", std::move(items)}};
  if (field.minimum > 0) json["minItems"] = field.minimum;
  if (field.maximum != kMaxInteger) json["maxItems"] = field.maximum;
  if (field.absent) json["maxItems"] = 0;
  return json;
}

Json TypeSchema(const Field& field) {
  switch (field.type) {
    case Type::kText:
      return TextSchema(field);
    case Type::kInteger:
      return {{"type", "integer"},
              {"minimum", field.minimum},
              {"maximum", field.maximum}};
    case Type::kBoolean:
      if (field.absent) return {{"type", "boolean"}, {"const", false}};
      return {{"type", "boolean"}};
    case Type::kObject:
      if (field.object == nullptr) return {{"type", "object"}};
      return {{"allOf", {Reference(*field.object)}}};
    case Type::kObjects:
    case Type::kTexts:
      return ListSchema(field);
    case Type::kTextMap:
      return {{"type", "object"},
              {"maxProperties", field.maximum},
              {"additionalProperties", {{"type", "string"}}}};
    case Type::kHex:
      return {{"type", "string"}, {"pattern", "^0x[0-9a-f]+$"}};
    case Type::kAddress:
    case Type::kSize: {
      const char* pattern = field.type == Type::kSize
                                ? kSizePattern
                                : "^(0x[0-9a-fA-F]+|[0-9]+)$";
      return {{"oneOf",
               {{{"type", "integer"}, {"minimum", 0}},
                {{"type", "string"}, {"pattern", pattern}}}}};
    }
  }
  return Json::object();
}

Json FieldSchema(const Field& field) {
  Json json = TypeSchema(field);
  json["description"] = std::string(field.doc);
  if (!field.fallback.empty()) json["default"] = Fallback(field);
  return json;
}

// `object` and what it refers to, by name.
void Collect(const Object& object, std::map<std::string, const Object*>* all) {
  if (!all->emplace(object.name, &object).second) return;
  for (const Field& field : object.fields) {
    if (field.object != nullptr) Collect(*field.object, all);
  }
}

std::map<std::string, const Object*> AllObjects() {
  std::map<std::string, const Object*> all;
  Collect(kFaultObject, &all);
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.body != nullptr) Collect(*endpoint.body, &all);
    if (endpoint.response != nullptr) Collect(*endpoint.response, &all);
  }
  return all;
}

Json ObjectSchema(const Object& object) {
  Json json = {{"type", "object"}, {"description", std::string(object.doc)}};
  if (object.fields.empty()) return json;
  json["additionalProperties"] = false;
  for (const Field& field : object.fields) {
    json["properties"][std::string(field.name)] = FieldSchema(field);
    if (field.required) json["required"].push_back(std::string(field.name));
  }
  return json;
}

// Schemas of responses say what is there, not all that may be there.
void Open(Json* schema) { schema->erase("additionalProperties"); }

Json FaultResponse(absl::string_view description) {
  return {{"description", std::string(description)},
          {"content",
           {{"application/json", {{"schema", Reference(kFaultObject)}}}}}};
}

Json ResponsesOf(const Endpoint& endpoint) {
  Json json;
  for (const FaultStatus& fault : FaultStatuses()) {
    json[absl::StrCat(fault.status)] = {
        {"$ref", absl::StrCat("#/components/responses/", fault.name)}};
  }
  if (endpoint.group == Group::kAbsent) return json;
  const bool is_json = endpoint.content == "application/json";
  const std::string content(
      endpoint.content.substr(0, endpoint.content.find(';')));
  if (endpoint.response == nullptr) {
    json["204"] = {{"description", "Done."}};
  } else {
    Json schema =
        is_json ? Reference(*endpoint.response) : Json({{"type", "string"}});
    json["200"] = {{"description", std::string(endpoint.doc)},
                   {"content", {{content, {{"schema", schema}}}}}};
  }
  return json;
}

const char* WhenText(When when) {
  switch (when) {
    case When::kAny:
      return "any time";
    case When::kBeforeStart:
      return "before the start";
    case When::kAfterStart:
      return "after the start";
  }
  return "";
}

Json ParametersOf(const Endpoint& endpoint) {
  Json json = Json::array();
  const size_t open = endpoint.path.find('{');
  if (open != absl::string_view::npos) {
    const size_t close = endpoint.path.find('}');
    json.push_back({{"name", std::string(endpoint.path.substr(
                                 open + 1, close - open - 1))},
                    {"in", "path"},
                    {"required", true},
                    {"schema", {{"type", "string"}, {"maxLength", 64}}}});
  }
  for (const Field& field : endpoint.query) {
    Json schema = TypeSchema(field);
    if (!field.fallback.empty()) schema["default"] = Fallback(field);
    json.push_back({{"name", std::string(field.name)},
                    {"in", "query"},
                    {"description", std::string(field.doc)},
                    {"schema", std::move(schema)}});
  }
  return json;
}

Json OperationJson(const Endpoint& endpoint) {
  Json json = {
      {"operationId", std::string(endpoint.id)},
      {"summary", std::string(endpoint.doc)},
      {"description", absl::StrCat("Allowed: ", WhenText(endpoint.when), ".")},
      {"responses", ResponsesOf(endpoint)}};
  Json parameters = ParametersOf(endpoint);
  if (!parameters.empty()) json["parameters"] = std::move(parameters);
  if (endpoint.body != nullptr) {
    json["requestBody"] = {
        {"required", true},
        {"content",
         {{"application/json", {{"schema", Reference(*endpoint.body)}}}}}};
  }
  if (endpoint.group == Group::kAbsent) json["deprecated"] = true;
  return json;
}

// ---- docs/api_reference.md ----

std::string Cell(absl::string_view text) {
  std::string cell;
  for (char c : text) {
    if (c == '|') cell += '\\';
    cell += c;
  }
  return cell;
}

std::string TypeText(const Field& field) {
  const std::string bounds =
      absl::StrCat(field.minimum, " to ",
                   field.maximum == kMaxInteger ? std::string("2^63 - 1")
                                                : absl::StrCat(field.maximum));
  const std::string of =
      field.object == nullptr ? "object" : std::string(field.object->name);
  if (field.absent) return "not supported";
  switch (field.type) {
    case Type::kText:
      if (!field.choices.empty()) return Cell(field.choices);
      return field.maximum == kMaxInteger
                 ? std::string("text")
                 : absl::StrCat("text, ", bounds, " bytes");
    case Type::kInteger:
      return absl::StrCat("integer, ", bounds);
    case Type::kBoolean:
      return "boolean";
    case Type::kObject:
      return of;
    case Type::kObjects:
      return absl::StrCat("list of ", of,
                          field.maximum == kMaxInteger
                              ? std::string()
                              : absl::StrCat(", ", bounds));
    case Type::kTexts:
      return "list of texts";
    case Type::kTextMap:
      return absl::StrCat("object of texts, ", bounds);
    case Type::kHex:
      return "\"0x...\"";
    case Type::kAddress:
      return "integer or \"0x...\"";
    case Type::kSize:
      return "integer, \"0x...\" or \"64MiB\"";
  }
  return "";
}

void AppendFields(absl::Span<const Field> fields, std::string* text) {
  absl::StrAppend(text,
                  "| field | type | default | meaning |\n"
                  "| --- | --- | --- | --- |\n");
  for (const Field& field : fields) {
    absl::StrAppend(text, "| `", field.name, "` | ", TypeText(field), " | ",
                    field.required ? std::string("required")
                    : field.fallback.empty()
                        ? std::string()
                        : absl::StrCat("`", field.fallback, "`"),
                    " | ", Cell(field.doc), " |\n");
  }
}

void AppendEndpoint(const Endpoint& endpoint, std::string* text) {
  absl::StrAppend(text, "\n### ", MethodName(endpoint.method), " ",
                  endpoint.path, "\n", endpoint.doc, " Operation `",
                  endpoint.id, "`, allowed: ", WhenText(endpoint.when), ".");
  if (endpoint.body != nullptr) {
    absl::StrAppend(text, " Body: ", endpoint.body->name, ".");
  }
  if (endpoint.response == nullptr) {
    absl::StrAppend(text, " Answers 204.\n");
  } else if (endpoint.content == "application/json") {
    absl::StrAppend(text, " Answers 200 with ", endpoint.response->name, ".\n");
  } else {
    absl::StrAppend(text, " Answers 200 with ", endpoint.content, ".\n");
  }
  if (!endpoint.query.empty()) {
    absl::StrAppend(text, "\nQuery:\n\n");
    AppendFields(endpoint.query, text);
  }
}

}  // namespace

Json OpenApiJson(absl::string_view version) {
  Json json = {
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "Cloister control API"},
        {"version", std::string(version)},
        {"description",
         "Controls one microVM. Compatible with Firecracker's API where both "
         "have an endpoint; docs/api.md lists the differences."},
        {"license", {{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}}}},
      {"servers", {{{"url", "http://localhost"}}}}};
  for (const Endpoint& endpoint : Endpoints()) {
    json["paths"][std::string(endpoint.path)]
        [absl::AsciiStrToLower(MethodName(endpoint.method))] =
            OperationJson(endpoint);
  }
  for (const FaultStatus& fault : FaultStatuses()) {
    json["components"]["responses"][std::string(fault.name)] =
        FaultResponse(fault.doc);
  }
  std::map<std::string, bool> is_body;
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.body != nullptr)
      is_body[std::string(endpoint.body->name)] = true;
  }
  for (const auto& [name, object] : AllObjects()) {
    Json schema = ObjectSchema(*object);
    for (const Endpoint& endpoint : Endpoints()) {
      if (endpoint.response == object && !is_body[name]) Open(&schema);
    }
    json["components"]["schemas"][name] = std::move(schema);
  }
  return json;
}

std::string ReferenceMarkdown() {
  std::string text =
      "# API reference\n\n"
      "Printed from `api/schema.cc` and what it includes: do not edit. "
      "`bazel run //api:print_reference > docs/api_reference.md` makes it "
      "anew. docs/api.md explains.\n\n"
      "Any request may be refused, with `{\"fault_message\": \"...\"}`:\n\n"
      "| status | when |\n| --- | --- |\n";
  for (const FaultStatus& fault : FaultStatuses()) {
    absl::StrAppend(&text, "| ", fault.status, " | ", fault.doc, " |\n");
  }
  constexpr std::pair<Group, const char*> kGroups[] = {
      {Group::kFirecracker, "Endpoints that Firecracker has too"},
      {Group::kCloister, "Cloister's own endpoints"}};
  for (const auto& [group, title] : kGroups) {
    absl::StrAppend(&text, "\n## ", title, "\n");
    for (const Endpoint& endpoint : Endpoints()) {
      if (endpoint.group == group) AppendEndpoint(endpoint, &text);
    }
  }
  absl::StrAppend(&text,
                  "\n## Compared with Firecracker\n\n"
                  "| endpoint | here |\n| --- | --- |\n");
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.group == Group::kCloister) continue;
    absl::StrAppend(
        &text, "| ", MethodName(endpoint.method), " ", endpoint.path, " | ",
        endpoint.group == Group::kAbsent
            ? absl::StrCat("absent (400): ", endpoint.doc)
        : endpoint.difference.empty()
            ? std::string("same")
            : absl::StrCat("different: ", Cell(endpoint.difference)),
        " |\n");
  }
  absl::StrAppend(&text, "\n## Objects\n");
  for (const auto& [name, object] : AllObjects()) {
    absl::StrAppend(&text, "\n### ", name, "\n", object->doc, "\n");
    if (object->fields.empty()) continue;
    absl::StrAppend(&text, "\n");
    AppendFields(object->fields, &text);
  }
  return text;
}

}  // namespace cloister::api
