// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/serial_file.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(SerialFileTest, WithoutAPathThereIsNone) {
  ASSERT_OK_AND_ASSIGN(auto none, SerialFile::Open(Json::object()));
  EXPECT_EQ(none, nullptr);
}

TEST(SerialFileTest, APathThatCannotBeOpenedIsNamed) {
  EXPECT_THAT(
      SerialFile::Open({{"serial_out_path", "/no/such/folder/x"}}).status(),
      StatusIs(absl::StatusCode::kNotFound,
               HasSubstr("serial_out_path: open /no/such/folder/x")));
}

TEST(SerialFileTest, TakesEverythingAndDropsWhatIsBeyondTheLimit) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/serial");
  std::ofstream(path).close();
  ASSERT_OK_AND_ASSIGN(
      auto file, SerialFile::Open({{"serial_out_path", path},
                                   {"rate_limiter",
                                    {{"size", 4}, {"refill_time", 3600000}}}}));
  EXPECT_EQ(file->Write(Bytes("abcd")), 4u);
  EXPECT_EQ(file->Write(Bytes("efg")), 3u);
  EXPECT_EQ(file->dropped(), 3u);
  EXPECT_EQ(ReadAll(path), "abcd");
  // As in Firecracker a size of 0 is no limit.
  ASSERT_OK_AND_ASSIGN(
      file, SerialFile::Open(
                {{"serial_out_path", path},
                 {"rate_limiter", {{"size", 0}, {"refill_time", 1000}}}}));
  EXPECT_EQ(file->Write(Bytes("0123456789")), 10u);
  EXPECT_EQ(file->dropped(), 0u);
  EXPECT_EQ(ReadAll(path), "abcd0123456789");
}

}  // namespace
}  // namespace cloister::api
