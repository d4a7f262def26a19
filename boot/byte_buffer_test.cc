// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/byte_buffer.h"

#include <cstring>
#include <optional>
#include <utility>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::testing::Each;
using ::testing::HasSubstr;

TEST(ByteBufferTest, WhatWasWrittenOutlivesTheBuffer) {
  SharedBytes shared;
  const uint8_t* place = nullptr;
  {
    ASSERT_OK_AND_ASSIGN(ByteBuffer buffer, ByteBuffer::Allocate(5000));
    ASSERT_EQ(buffer.size(), 5000u);
    std::memset(buffer.data(), 0x5a, buffer.size());
    place = buffer.data();
    shared = std::move(buffer).Share();
  }
  EXPECT_EQ(shared.data(), place) << "a copy";
  EXPECT_EQ(shared.size(), 5000u);
  EXPECT_THAT(shared.span(), Each(0x5a));
}

TEST(ByteBufferTest, NothingIsSomething) {
  ASSERT_OK_AND_ASSIGN(ByteBuffer buffer, ByteBuffer::Allocate(0));
  EXPECT_NE(buffer.data(), nullptr);
  EXPECT_TRUE(std::move(buffer).Share().empty());
}

TEST(ByteBufferTest, TooMuchIsAnErrorThatNamesTheSize) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator ends the process instead";
#endif
  constexpr uint64_t kMuch = uint64_t{1} << 62;
  EXPECT_THAT(ByteBuffer::Allocate(kMuch).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("4611686018427387904 bytes")));
}

}  // namespace
}  // namespace cloister::boot
