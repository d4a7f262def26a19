// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/request.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(RequestTest, OperationsAreMethodsPathsAndBodies) {
  ASSERT_OK_AND_ASSIGN(ClientRequest request,
                       RequestOf("patchDrive", {{"drive_id", "a"}},
                                 {{"drive_id", "a"}, {"path_on_host", "/n"}}));
  EXPECT_EQ(request.method, "PATCH");
  EXPECT_EQ(request.target, "/drives/a");
  EXPECT_EQ(request.body, "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}");
  ASSERT_OK_AND_ASSIGN(
      request, RequestOf("getMemoryAttributes",
                         {{"gpa", "0x100000000"}, {"len", 4096}}, nullptr));
  EXPECT_EQ(request.target, "/memory/attributes?gpa=0x100000000&len=4096");
  EXPECT_EQ(request.body, "");
  ASSERT_OK_AND_ASSIGN(request, RequestOf("getVersion", nullptr, nullptr));
  EXPECT_EQ(request.target, "/version");
}

// What the server would refuse is not sent.
TEST(RequestTest, WhatTheSchemaRefusesIsNamed) {
  const struct {
    const char* operation;
    Json parameters;
    Json body;
    const char* named;
  } kBad[] = {
      {"startVm", nullptr, nullptr, "startVm"},
      {"getVersion", Json::array(), nullptr, "parameters"},
      {"getVersion", {{"a", 1}}, nullptr, "\"a\""},
      {"getVersion", nullptr, Json::object(), "no body"},
      {"putDrive", nullptr, Json::object(), "drive_id: missing"},
      {"putDrive", {{"drive_id", "a/b"}}, Json::object(), "drive_id"},
      {"putDrive", {{"drive_id", ""}}, Json::object(), "drive_id"},
      {"putDrive", {{"drive_id", "a?b=c"}}, Json::object(), "drive_id"},
      {"putDrive", {{"drive_id", "a"}}, {{"drive_id", "a"}}, "path_on_host"},
      {"putEntropy", nullptr, nullptr, "body is missing"},
      {"patchVm", nullptr, {{"state", "Gone"}}, "state"},
      {"patchBalloon", nullptr, {{"amount_mib", -1}}, "amount_mib"},
      {"getMemoryMap", {{"cells", 1025}}, nullptr, "cells"},
      {"getMemoryMap", {{"cells", "1&x=2"}}, nullptr, "cells"},
  };
  for (const auto& bad : kBad) {
    EXPECT_THAT(RequestOf(bad.operation, bad.parameters, bad.body),
                StatusIs(kInvalid, HasSubstr(bad.named)))
        << bad.operation;
  }
  EXPECT_THAT(RequestOf("getMmds", nullptr, nullptr),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("not supported: GET /mmds")));
}

TEST(RequestTest, OtherRequestsAreCheckedTheSameWay) {
  EXPECT_OK(CheckRequest({"PUT", "/entropy", "{}"}));
  EXPECT_OK(CheckRequest({"GET", "/memory/attributes?gpa=4096", ""}));
  EXPECT_THAT(CheckRequest({"PUT", "/nowhere", "{}"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere")));
  EXPECT_THAT(CheckRequest({"POST", "/entropy", "{}"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("POST")));
  EXPECT_THAT(CheckRequest({"GET", "/memory/attributes?x=1", ""}),
              StatusIs(kInvalid, HasSubstr("\"x\"")));
  EXPECT_THAT(CheckRequest({"PUT", "/entropy", "{\"a\":1}"}),
              StatusIs(kInvalid, HasSubstr("\"a\"")));
  EXPECT_THAT(CheckRequest({"PUT", "/snapshot/create", "{}"}),
              StatusIs(absl::StatusCode::kUnimplemented));
}

// Whatever the table gains is reachable: an operation's request is that
// operation's.
TEST(RequestTest, EveryOperationThatTakesNothingHasItsRequest) {
  int requests = 0;
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.group == Group::kAbsent || endpoint.body != nullptr) continue;
    ASSERT_OK_AND_ASSIGN(const ClientRequest request,
                         RequestOf(endpoint.id, nullptr, nullptr));
    EXPECT_EQ(request.method, std::string(MethodName(endpoint.method)));
    EXPECT_EQ(request.target, std::string(endpoint.path));
    ++requests;
  }
  EXPECT_GT(requests, 15);
}

TEST(RequestTest, PathsAreThoseOfTheSchema) {
  EXPECT_THAT(PathsOf(Method::kPut), Contains("/drives/{drive_id}"));
  EXPECT_THAT(PathsOf(Method::kPut), Not(Contains("/mmds")));
  EXPECT_THAT(PathsOf(Method::kPost),
              ::testing::ElementsAre("/memory/convert"));
  size_t known = 0;
  for (Method method :
       {Method::kGet, Method::kPut, Method::kPatch, Method::kPost}) {
    known += PathsOf(method).size();
  }
  const auto endpoints = Endpoints();
  EXPECT_EQ(known, static_cast<size_t>(
                       std::count_if(endpoints.begin(), endpoints.end(),
                                     [](const Endpoint& endpoint) {
                                       return endpoint.group != Group::kAbsent;
                                     })));
}

}  // namespace
}  // namespace cloister::api
