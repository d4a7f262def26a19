// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/openapi.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/ascii.h"
#include "cloister/api/schema.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

// Every "$ref" below `json`.
void CheckReferences(const Json& json, const Json& root) {
  if (json.is_object() && json.contains("$ref")) {
    const std::string name = json["$ref"].get<std::string>();
    ASSERT_EQ(name.substr(0, 2), "#/");
    EXPECT_TRUE(root.contains(Json::json_pointer(name.substr(1)))) << name;
  }
  if (json.is_structured()) {
    for (const Json& member : json) CheckReferences(member, root);
  }
}

TEST(OpenApiTest, DescribesEveryEndpoint) {
  const Json json = OpenApiJson("1.2.3");
  EXPECT_EQ(json["openapi"], "3.1.0");
  EXPECT_EQ(json["info"]["version"], "1.2.3");
  for (const Endpoint& endpoint : Endpoints()) {
    const std::string method =
        absl::AsciiStrToLower(MethodName(endpoint.method));
    const std::string path(endpoint.path);
    ASSERT_TRUE(json["paths"].contains(path)) << path;
    const Json& operation = json["paths"][path][method];
    EXPECT_EQ(operation["operationId"], std::string(endpoint.id));
    EXPECT_EQ(operation.contains("requestBody"), endpoint.body != nullptr);
    for (const FaultStatus& fault : FaultStatuses()) {
      EXPECT_TRUE(
          operation["responses"].contains(std::to_string(fault.status)));
    }
  }
  CheckReferences(json, json);
}

// As server_test and controller_test provoke them.
TEST(OpenApiTest, EveryRefusalIsStated) {
  std::set<int> statuses;
  for (const FaultStatus& fault : FaultStatuses()) {
    EXPECT_TRUE(statuses.insert(fault.status).second);
  }
  EXPECT_EQ(statuses, std::set<int>({400, 401, 408, 413, 431, 503}));
  const Json json = OpenApiJson("1");
  EXPECT_EQ(json["components"]["responses"].size(), statuses.size());
  std::ifstream file("docs/api.md");
  ASSERT_TRUE(file.is_open());
  std::stringstream text;
  text << file.rdbuf();
  for (int status : statuses) {
    EXPECT_NE(text.str().find("| " + std::to_string(status) + " |"),
              std::string::npos)
        << status;
  }
}

TEST(OpenApiTest, SaysWhatTheValidatorChecks) {
  const Json machine =
      OpenApiJson("1")["components"]["schemas"]["MachineConfiguration"];
  EXPECT_EQ(machine["additionalProperties"], false);
  EXPECT_EQ(machine["required"], Json({"vcpu_count", "mem_size_mib"}));
  EXPECT_EQ(machine["properties"]["vcpu_count"]["minimum"], 1);
  EXPECT_EQ(machine["properties"]["vcpu_count"]["maximum"], 4096);
  EXPECT_EQ(machine["properties"]["huge_pages"]["enum"][2], "2M");
}

TEST(OpenApiTest, AddressesOfAnswersAreHexadecimal) {
  const Json schemas = OpenApiJson("1")["components"]["schemas"];
  for (const char* object : {"AttributeRange", "ConvertedRange"}) {
    for (const char* field : {"gpa", "len"}) {
      EXPECT_EQ(schemas[object]["properties"][field]["pattern"],
                "^0x[0-9a-f]+$");
    }
  }
}

TEST(OpenApiTest, ReferenceIsTheCommittedOne) {
  std::ifstream file("docs/api_reference.md");
  ASSERT_TRUE(file.is_open());
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == ReferenceMarkdown())
      << "stale: bazel run //api:print_reference > docs/api_reference.md";
}

}  // namespace
}  // namespace cloister::api
