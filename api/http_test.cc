// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/http.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

TEST(HttpTest, FaultsAreOneObject) {
  const HttpResponse response = Fault(413, "too \"large\"\xff");
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(response.content_type, "application/json");
  const Json json = Json::parse(response.body, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json.size(), 1u);
  EXPECT_EQ(json["fault_message"], "too \"large\"\xef\xbf\xbd");
}

TEST(HttpTest, StatusesOfErrors) {
  EXPECT_EQ(NoContentOr(absl::OkStatus()).status, 204);
  EXPECT_EQ(NoContentOr(absl::OkStatus()).body, "");
  EXPECT_EQ(NoContentOr(absl::InternalError("x")).status, 400);
  EXPECT_EQ(Refusal(absl::NotFoundError("x")).status, 400);
  EXPECT_EQ(Refusal(absl::ResourceExhaustedError("x")).status, 503);
}

TEST(HttpTest, DocumentsHaveTheirType) {
  EXPECT_EQ(OkJson({{"a", 1}}).status, 200);
  EXPECT_EQ(OkJson({{"a", 1}}).body, "{\"a\":1}");
  EXPECT_EQ(OkText("x 1\n", "text/plain").content_type, "text/plain");
}

}  // namespace
}  // namespace cloister::api
