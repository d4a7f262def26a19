// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/status_macros.h"

#include <memory>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

absl::Status Forward(absl::Status status, bool* reached) {
  RETURN_IF_ERROR(status);
  *reached = true;
  return absl::OkStatus();
}

absl::StatusOr<int> Add(absl::StatusOr<std::unique_ptr<int>> a,
                        absl::StatusOr<int> b) {
  ASSIGN_OR_RETURN(std::unique_ptr<int> x, std::move(a));
  ASSIGN_OR_RETURN(int y, b);
  return *x + y;
}

TEST(StatusMacrosTest, ReturnIfError) {
  bool reached = false;
  EXPECT_THAT(Forward(absl::AbortedError("no"), &reached),
              StatusIs(absl::StatusCode::kAborted, "no"));
  EXPECT_FALSE(reached);
  EXPECT_OK(Forward(absl::OkStatus(), &reached));
  EXPECT_TRUE(reached);
}

TEST(StatusMacrosTest, AssignOrReturnMovesAndForwardsErrors) {
  EXPECT_THAT(Add(std::make_unique<int>(2), 3), IsOkAndHolds(5));
  EXPECT_THAT(Add(absl::NotFoundError("a"), 3),
              StatusIs(absl::StatusCode::kNotFound, "a"));
  EXPECT_THAT(Add(std::make_unique<int>(2), absl::DataLossError("b")),
              StatusIs(absl::StatusCode::kDataLoss, "b"));
}

}  // namespace
}  // namespace cloister::base
