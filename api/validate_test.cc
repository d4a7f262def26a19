// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/validate.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/api/schema_objects.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;

const Endpoint& Find(const std::string& method, const std::string& target) {
  std::string id, query;
  auto found = FindEndpoint(method, target, &id, &query);
  EXPECT_TRUE(found.ok()) << method << " " << target;
  return found.ok() ? **found : Endpoints()[0];
}

// "" if the body is good, else the message.
std::string Body(const std::string& method, const std::string& target,
                 const std::string& body) {
  auto parsed = ParseBody(Find(method, target), body);
  return parsed.ok() ? "" : std::string(parsed.status().message());
}

TEST(ValidateTest, FindsEndpointsByMethodAndPath) {
  std::string id, query;
  ASSERT_OK_AND_ASSIGN(
      const Endpoint* endpoint,
      FindEndpoint("PUT", "/drives/root-fs?a=b?c", &id, &query));
  EXPECT_EQ(endpoint->operation, Operation::kPutDrive);
  EXPECT_EQ(id, "root-fs");
  EXPECT_EQ(query, "a=b?c");
  for (const auto& [method, target] : {std::pair{"PUT", "/drives"},
                                       {"PUT", "/drives/"},
                                       {"PUT", "/drives/a/b"},
                                       {"GET", "/drives/a"},
                                       {"DELETE", "/"},
                                       {"get", "/"},
                                       {"GET", ""},
                                       {"GET", "//"},
                                       {"GET", "/versionx"},
                                       {"", ""}}) {
    EXPECT_EQ(FindEndpoint(method, target, &id, &query).status().code(),
              absl::StatusCode::kNotFound)
        << method << " " << target;
  }
}

TEST(ValidateTest, IntegersHaveTheirRange) {
  auto cpus = [](const std::string& count) {
    return Body(
        "PUT", "/machine-config",
        absl::StrCat("{\"mem_size_mib\":64,\"vcpu_count\":", count, "}"));
  };
  EXPECT_EQ(cpus("1"), "");
  EXPECT_EQ(cpus("4096"), "");
  for (const char* bad : {"0", "4097", "-1", "1.0", "\"1\"", "true", "[]", "{}",
                          "1e1", "18446744073709551615", "18446744073709551616",
                          "-9223372036854775809"}) {
    EXPECT_THAT(cpus(bad), HasSubstr("vcpu_count: expected an integer")) << bad;
  }
  // Null is absence, and this field is required.
  EXPECT_THAT(cpus("null"), HasSubstr("vcpu_count: missing"));
}

TEST(ValidateTest, FieldsAreKnownTypedAndThere) {
  EXPECT_THAT(Body("PUT", "/boot-source", "{}"),
              HasSubstr("kernel_image_path: missing"));
  EXPECT_THAT(Body("PUT", "/boot-source", "{\"kernel_image_path\":7}"),
              HasSubstr("expected a text"));
  EXPECT_THAT(Body("PUT", "/boot-source",
                   "{\"kernel_image_path\":\"k\",\"bogus\\n\":1}"),
              HasSubstr("unknown field \"bogus\\n\""));
  EXPECT_THAT(
      Body("PUT", "/boot-source", "{\"kernel_image_path\":\"a\\u0000\"}"),
      HasSubstr("NUL"));
  EXPECT_EQ(Body("PUT", "/boot-source",
                 "{\"kernel_image_path\":\"k\",\"initrd_path\":null}"),
            "");
  EXPECT_THAT(Body("PUT", "/boot-source", "[]"), HasSubstr("an object"));
  EXPECT_THAT(Body("PUT", "/boot-source", ""), HasSubstr("missing"));
  EXPECT_THAT(Body("GET", "/version", "{}"), HasSubstr("no body"));
  EXPECT_THAT(Body("PUT", "/actions", "{\"action_type\":\"instancestart\"}"),
              HasSubstr("InstanceStart|"));
}

TEST(ValidateTest, TextsHaveTheirLengths) {
  auto path = [](size_t size) {
    return Body(
        "PUT", "/metrics",
        absl::StrCat("{\"metrics_path\":\"", std::string(size, 'p'), "\"}"));
  };
  EXPECT_THAT(path(0), HasSubstr("1 to 4095"));
  EXPECT_EQ(path(1), "");
  EXPECT_EQ(path(4095), "");
  EXPECT_THAT(path(4096), HasSubstr("1 to 4095"));
}

TEST(ValidateTest, NestedObjectsAreCheckedToo) {
  EXPECT_THAT(Body("PUT", "/entropy",
                   "{\"rate_limiter\":{\"bandwidth\":{\"size\":1}}}"),
              HasSubstr("rate_limiter: bandwidth: refill_time: missing"));
  EXPECT_THAT(Body("PUT", "/entropy",
                   "{\"rate_limiter\":{\"bandwidth\":{\"size\":-1,"
                   "\"refill_time\":0}}}"),
              HasSubstr("size: expected an integer"));
  EXPECT_EQ(Body("PUT", "/entropy",
                 "{\"rate_limiter\":{\"ops\":{\"size\":9223372036854775807,"
                 "\"refill_time\":0,\"one_time_burst\":null}}}"),
            "");
}

TEST(ValidateTest, AbsentFieldsMayOnlyAskForNothing) {
  auto machine = [](const std::string& field) {
    return Body("PATCH", "/machine-config", "{" + field + "}");
  };
  EXPECT_EQ(machine("\"track_dirty_pages\":false"), "");
  EXPECT_EQ(machine("\"track_dirty_pages\":null"), "");
  EXPECT_EQ(machine("\"cpu_template\":\"None\""), "");
  EXPECT_EQ(machine("\"track_dirty_pages\":true"),
            "track_dirty_pages: not supported");
  EXPECT_EQ(machine("\"cpu_template\":\"T2\""), "cpu_template: not supported");
  EXPECT_EQ(machine("\"cpu_template\":\"\""), "cpu_template: not supported");
  EXPECT_EQ(Body("PUT", "/cpu-config", "{\"msr_modifiers\":[]}"), "");
  EXPECT_EQ(Body("PUT", "/cpu-config", "{\"msr_modifiers\":[{}]}"),
            "msr_modifiers: not supported");
}

TEST(ValidateTest, AddressesAndSizesHaveTheirSpellings) {
  auto body = [](const std::string& gpa, const std::string& len) {
    return absl::StrCat("{\"ranges\":[{\"gpa\":", gpa, ",\"len\":", len,
                        ",\"to\":\"shared\"}]}");
  };
  ASSERT_OK_AND_ASSIGN(Json parsed,
                       ParseBody(Find("POST", "/memory/convert"),
                                 body("\"0x10aF000\"", "\"64MiB\"")));
  EXPECT_EQ(parsed["ranges"][0]["gpa"], 0x10af000u);
  EXPECT_EQ(parsed["ranges"][0]["len"], 64u << 20);
  for (const char* good : {"0", "\"0\"", "\"4096\"", "\"0xffffffffffffffff\"",
                           "18446744073709551615"}) {
    EXPECT_EQ(Body("POST", "/memory/convert", body(good, "1")), "") << good;
  }
  for (const char* bad :
       {"-1", "1.5", "\"\"", "\"0x\"", "\"-1\"", "\"+1\"", "\" 1\"", "\"1 \"",
        "\"0x1g\"", "\"0x0x1\"", "\"0x-1\"", "\"0x10000000000000000\"",
        "\"18446744073709551616\"", "\"4KiB\"", "true", "[]"}) {
    EXPECT_THAT(Body("POST", "/memory/convert", body(bad, "1")),
                HasSubstr("gpa: expected an address"))
        << bad;
  }
  for (const char* bad : {"\"4Kx\"", "\"17179869184T\"", "\"\"", "-1"}) {
    EXPECT_THAT(Body("POST", "/memory/convert", body("0", bad)),
                HasSubstr("len: expected a size"))
        << bad;
  }
}

TEST(ValidateTest, ListsHaveTheirLengths) {
  auto ranges = [](size_t count) {
    std::string body = "{\"ranges\":[";
    for (size_t i = 0; i < count; ++i) {
      absl::StrAppend(&body, i == 0 ? "" : ",",
                      "{\"gpa\":0,\"len\":4096,\"to\":\"shared\"}");
    }
    return Body("POST", "/memory/convert", body + "]}");
  };
  EXPECT_THAT(ranges(0), HasSubstr("1 to 256"));
  EXPECT_EQ(ranges(1), "");
  EXPECT_EQ(ranges(256), "");
  EXPECT_THAT(ranges(257), HasSubstr("1 to 256"));
}

TEST(ValidateTest, QueriesAreCheckedLikeBodies) {
  const Endpoint& endpoint = Find("GET", "/memory/attributes");
  ASSERT_OK_AND_ASSIGN(Json query,
                       ParseQuery(endpoint, "gpa=0x1000&len=64MiB"));
  EXPECT_EQ(query["gpa"], 0x1000u);
  EXPECT_EQ(query["len"], 64u << 20);
  for (const char* bad :
       {"gpa", "gpa=", "gpa=1&gpa=1", "x=1", "&", "gpa=%30", "gpa=1&", "=1"}) {
    EXPECT_FALSE(ParseQuery(endpoint, bad).ok()) << bad;
  }
  const Endpoint& map = Find("GET", "/memory/map");
  EXPECT_OK(ParseQuery(map, "cells=1024").status());
  EXPECT_FALSE(ParseQuery(map, "cells=1025").ok());
  EXPECT_FALSE(ParseQuery(map, "cells=0").ok());
  EXPECT_FALSE(ParseQuery(Find("GET", "/"), "a=b").ok());
}

TEST(ValidateTest, AddressesAreShownAsTheyMayBeGiven) {
  const Endpoint& endpoint = Find("PUT", "/confidential");
  const std::string body =
      "{\"exchange_windows\":[{\"gpa\":4096,\"len\":\"8KiB\"}],"
      "\"policy\":{\"shared_limit\":\"1MiB\",\"burst\":3}}";
  ASSERT_OK_AND_ASSIGN(const Json read, ParseBody(endpoint, body));
  Json shown = read;
  ShowAddresses(*endpoint.body, &shown);
  EXPECT_EQ(shown["exchange_windows"][0]["gpa"], "0x1000");
  EXPECT_EQ(shown["exchange_windows"][0]["len"], "0x2000");
  EXPECT_EQ(shown["policy"]["shared_limit"], "0x100000");
  EXPECT_EQ(shown["policy"]["burst"], 3);
  ASSERT_OK_AND_ASSIGN(const Json back, ParseBody(endpoint, shown.dump()));
  EXPECT_EQ(back, read);
  // What is shown already stays, and so does what is no such object.
  Json again = shown;
  ShowAddresses(*endpoint.body, &again);
  EXPECT_EQ(again, shown);
  Json other = {{"exchange_windows", 7}, {"policy", Json::array({1})}};
  const Json before = other;
  ShowAddresses(*endpoint.body, &other);
  EXPECT_EQ(other, before);
}

TEST(ValidateTest, ChoicesMayIgnoreCaseAndDefaultsFillIn) {
  ASSERT_OK_AND_ASSIGN(Json logger, ParseBody(Find("PUT", "/logger"),
                                              "{\"level\":\"WARNING\"}"));
  EXPECT_EQ(logger["level"], "Warning");
  AddDefaults(kLoggerObject, &logger);
  EXPECT_EQ(logger["level"], "Warning");
  EXPECT_EQ(logger["format"], "text");
}

}  // namespace
}  // namespace cloister::api
