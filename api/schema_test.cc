// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/schema.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/json.h"
#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

void CheckFields(absl::Span<const Field> fields) {
  std::set<absl::string_view> names;
  for (const Field& field : fields) {
    SCOPED_TRACE(std::string(field.name));
    EXPECT_TRUE(names.insert(field.name).second);
    EXPECT_FALSE(field.doc.empty());
    EXPECT_TRUE(absl::EndsWith(field.doc, "."));
    EXPECT_LE(field.minimum, field.maximum);
    EXPECT_FALSE(field.absent && field.required);
    if (!field.fallback.empty()) {
      EXPECT_OK(ParseJson(field.fallback).status());
    }
    if (field.type == Type::kObject && field.object != nullptr) {
      CheckFields(field.object->fields);
    }
  }
}

TEST(SchemaTest, EndpointsAreUniqueAndWhole) {
  std::set<std::string> paths, ids;
  std::set<Operation> operations;
  for (const Endpoint& endpoint : Endpoints()) {
    SCOPED_TRACE(std::string(endpoint.id));
    EXPECT_TRUE(absl::StartsWith(endpoint.path, "/"));
    EXPECT_FALSE(endpoint.doc.empty());
    EXPECT_TRUE(ids.insert(std::string(endpoint.id)).second);
    EXPECT_TRUE(paths
                    .insert(absl::StrCat(MethodName(endpoint.method), " ",
                                         endpoint.path))
                    .second);
    if (endpoint.operation != Operation::kNotSupported) {
      EXPECT_TRUE(operations.insert(endpoint.operation).second);
    }
    // GET answers something and takes no body; all others take one.
    const bool is_get = endpoint.method == Method::kGet;
    if (endpoint.group != Group::kAbsent) {
      EXPECT_EQ(endpoint.body == nullptr, is_get);
      EXPECT_TRUE(!is_get || endpoint.response != nullptr);
    }
    if (endpoint.body != nullptr) CheckFields(endpoint.body->fields);
    CheckFields(endpoint.query);
  }
  EXPECT_EQ(operations.size(), static_cast<size_t>(Operation::kNotSupported));
}

TEST(SchemaTest, MethodsHaveTheirNames) {
  EXPECT_EQ(MethodName(Method::kGet), "GET");
  EXPECT_EQ(MethodName(Method::kPut), "PUT");
  EXPECT_EQ(MethodName(Method::kPatch), "PATCH");
  EXPECT_EQ(MethodName(Method::kPost), "POST");
}

}  // namespace
}  // namespace cloister::api
