// SPDX-License-Identifier: Apache-2.0
//
// GoogleTest matchers for absl::Status and absl::StatusOr (test only).
#ifndef CLOISTER_BASE_STATUS_MATCHERS_H_
#define CLOISTER_BASE_STATUS_MATCHERS_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::base {

inline const absl::Status& GetStatus(const absl::Status& status) {
  return status;
}
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

// Matches an OK Status or StatusOr.
MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString();
  return status.ok();
}

// Matches a Status or StatusOr with the given code, and a message that matches.
MATCHER_P2(StatusIs, code, message, "has the given code and message") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(message, std::string(status.message()),
                                       result_listener);
}
MATCHER_P(StatusIs, code, "has the given code") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code;
}

// Matches a StatusOr that is OK and whose value matches.
MATCHER_P(IsOkAndHolds, inner, "is OK and its value matches") {
  if (!arg.ok()) {
    *result_listener << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(inner, *arg, result_listener);
}

}  // namespace cloister::base

#define ASSERT_OK(expr) ASSERT_THAT((expr), ::cloister::base::IsOk())
#define EXPECT_OK(expr) EXPECT_THAT((expr), ::cloister::base::IsOk())
#define ASSERT_OK_AND_ASSIGN(lhs, expr)                                      \
  CLOISTER_ASSERT_OK_AND_ASSIGN(CLOISTER_CONCAT(cloister_assert_, __LINE__), \
                                lhs, expr)
#define CLOISTER_ASSERT_OK_AND_ASSIGN(result, lhs, expr)        \
  auto result = (expr);                                         \
  ASSERT_TRUE(result.ok()) << #expr << ": " << result.status(); \
  lhs = std::move(result).value()

#endif  // CLOISTER_BASE_STATUS_MATCHERS_H_
