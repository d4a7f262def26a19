// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/devices_fixture.h"

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"

namespace cloister::tests {

using nlohmann::json;
using ::testing::HasSubstr;

std::string BackendName(const ::testing::TestParamInfo<const char*>& info) {
  return std::string(info.param) == "off" ? "off" : "sw_protected";
}

std::string DevicesFixture::Do(const std::string& command) {
  const size_t before = guest_->output().size();
  EXPECT_OK(guest_->Type(command + "\n"));
  EXPECT_OK(guest_->Expect("ended with ", patience_)) << command;
  EXPECT_OK(guest_->Expect(".", patience_)) << command;
  return absl::StrReplaceAll(guest_->output().substr(before), {{"\r", ""}});
}

json DevicesFixture::Get(const std::string& path) {
  auto client = api::Client::Connect(api_);
  EXPECT_OK(client);
  if (!client.ok()) return {};
  auto text = (*client)->Get(path);
  EXPECT_OK(text) << path;
  return text.ok() ? json::parse(*text, nullptr, false) : json();
}

uint64_t DevicesFixture::Count(const std::string& device,
                               const std::string& name) {
  const json devices = Get("/metrics")["devices"];
  EXPECT_TRUE(devices.contains(device)) << device << " in " << devices.dump();
  return devices.value(device, json::object()).value(name, uint64_t{0});
}

bool DevicesFixture::Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + patience_;
  while (!condition()) {
    if (HasFailure() || std::chrono::steady_clock::now() > end) return false;
  }
  return true;
}

uint64_t DevicesFixture::Converted(const char* way) {
  return Get("/memory/conversions")[way]["explicit"].value("requests",
                                                           uint64_t{0});
}

void DevicesFixture::StartConverting(const std::string& card) {
  EXPECT_THAT(Do(absl::StrCat("touch /run/go; card=$(basename $(readlink "
                              "/sys/class/net/",
                              card,
                              "/device)); "
                              "(cd /sys/bus/virtio/drivers/virtio_net; n=0; "
                              "while [ -e /run/go ]; do echo $card >unbind; "
                              "echo $card >bind; n=$((n+1)); done; "
                              "echo came $n times. >/run/came) &")),
              HasSubstr("ended with 0"));
}

uint64_t DevicesFixture::StopConverting() {
  const std::string said =
      Do("rm /run/go; until [ -s /run/came ]; do sleep 0.1; done; "
         "cat /run/came; rm /run/came");
  const size_t at = said.find("\ncame ");
  EXPECT_NE(at, std::string::npos) << said;
  if (at == std::string::npos) return 0;
  return std::strtoull(said.c_str() + at + 6, nullptr, 10);
}

void DevicesFixture::WhileItConverts(const std::string& card, uint64_t queues,
                                     const std::function<void()>& transfer) {
  if (!Confidential()) return transfer();
  const uint64_t shared = Converted("to_shared");
  const uint64_t made_private = Converted("to_private");
  StartConverting(card);
  transfer();
  const uint64_t times = StopConverting();
  std::cout << "meanwhile a card came and went " << times
            << " times: " << Converted("to_shared") - shared
            << " conversions to shared, "
            << Converted("to_private") - made_private << " to private\n";
  EXPECT_GT(times, 0u);
  EXPECT_GE(Converted("to_shared") - shared, queues * times);
  EXPECT_GE(Converted("to_private") - made_private, queues * times);
}

void DevicesFixture::NoLeaseIsLeft() {
  json leased;
  Eventually([&] { return (leased = Get("/metrics")["leased_bytes"]) == 0; });
  EXPECT_EQ(leased, 0) << "bytes";
  if (!Confidential()) return;
  EXPECT_EQ(Get("/memory/conversions")["bytes"]["pending_private"], 0);
}

}  // namespace cloister::tests
