// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/config_store.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/api/validate.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;

absl::Status Put(ConfigStore& store, const std::string& target,
                 const std::string& body, const std::string& method = "PUT") {
  std::string id, query;
  ASSIGN_OR_RETURN(const Endpoint* endpoint,
                   FindEndpoint(method, target, &id, &query));
  ASSIGN_OR_RETURN(Json value, ParseBody(*endpoint, body));
  return store.Apply(*endpoint, id, std::move(value));
}

std::string Drive(const std::string& id, bool root) {
  return absl::StrCat("{\"drive_id\":\"", id,
                      "\",\"path_on_host\":\"/d\",\"is_root_device\":",
                      root ? "true" : "false", "}");
}

std::string Card(const std::string& id, const std::string& tap,
                 const std::string& more = "") {
  return absl::StrCat("{\"iface_id\":\"", id, "\",\"host_dev_name\":\"", tap,
                      "\"", more, "}");
}

TEST(ConfigStoreTest, HasDefaults) {
  ConfigStore store;
  const Json& machine = store.json()["machine-config"];
  EXPECT_EQ(machine["vcpu_count"], 1);
  EXPECT_EQ(machine["mem_size_mib"], 128);
  EXPECT_EQ(machine["smt"], false);
  EXPECT_EQ(store.json()["confidential"]["backend"], "auto");
}

TEST(ConfigStoreTest, PutReplacesAndPatchChanges) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/machine-config",
                "{\"vcpu_count\":4,\"mem_size_mib\":512,\"smt\":true}"));
  ASSERT_OK(Put(store, "/machine-config", "{\"mem_size_mib\":256}", "PATCH"));
  EXPECT_EQ(store.json()["machine-config"]["vcpu_count"], 4);
  EXPECT_EQ(store.json()["machine-config"]["mem_size_mib"], 256);
  EXPECT_FALSE(Put(store, "/machine-config", "{}", "PATCH").ok());
  ASSERT_OK(
      Put(store, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64}"));
  EXPECT_EQ(store.json()["machine-config"]["smt"], false);
}

TEST(ConfigStoreTest, RulesBetweenFieldsChangeNothing) {
  ConfigStore store;
  const Json before = store.json();
  EXPECT_THAT(std::string(Put(store, "/machine-config",
                              "{\"vcpu_count\":3,\"mem_size_mib\":64,"
                              "\"smt\":true}")
                              .message()),
              HasSubstr("even"));
  EXPECT_FALSE(Put(store, "/machine-config",
                   "{\"vcpu_count\":1,\"mem_size_mib\":65,"
                   "\"huge_pages\":\"2M\"}")
                   .ok());
  EXPECT_FALSE(
      Put(store, "/machine-config", "{\"huge_pages\":\"1G\"}", "PATCH").ok());
  EXPECT_EQ(store.json(), before);
}

void NoteChange(ConfigStore& store, const std::string& target,
                const std::string& body) {
  std::string id, query;
  auto endpoint = FindEndpoint("PATCH", target, &id, &query);
  ASSERT_OK(endpoint);
  auto value = ParseBody(**endpoint, body);
  ASSERT_OK(value);
  store.NoteChange(**endpoint, id, *value);
}

TEST(ConfigStoreTest, ChangesOfARunningVmAreNoted) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/drives/a", Drive("a", true)));
  ASSERT_OK(Put(store, "/drives/b", Drive("b", false)));
  ASSERT_OK(Put(store, "/network-interfaces/e",
                Card("e", "tap0",
                     ",\"rx_rate_limiter\":{\"ops\":{\"size\":1,"
                     "\"refill_time\":2}}")));
  ASSERT_OK(Put(store, "/balloon",
                "{\"amount_mib\":1,\"deflate_on_oom\":true,"
                "\"stats_polling_interval_s\":1}"));
  NoteChange(store, "/drives/b",
             "{\"drive_id\":\"b\",\"path_on_host\":\"/new\"}");
  EXPECT_EQ(store.json()["drives"][0]["path_on_host"], "/d");
  EXPECT_EQ(store.json()["drives"][1]["path_on_host"], "/new");
  EXPECT_EQ(store.json()["drives"][1]["is_root_device"], false);
  // A bucket that was not named stays.
  NoteChange(store, "/network-interfaces/e",
             "{\"iface_id\":\"e\",\"rx_rate_limiter\":{\"bandwidth\":"
             "{\"size\":3,\"refill_time\":4}}}");
  const Json& limit = store.json()["network-interfaces"][0]["rx_rate_limiter"];
  EXPECT_EQ(limit["ops"]["size"], 1);
  EXPECT_EQ(limit["bandwidth"]["size"], 3);
  NoteChange(store, "/balloon", "{\"amount_mib\":7}");
  NoteChange(store, "/balloon/statistics", "{\"stats_polling_interval_s\":9}");
  EXPECT_EQ(store.json()["balloon"]["amount_mib"], 7);
  EXPECT_EQ(store.json()["balloon"]["stats_polling_interval_s"], 9);
  EXPECT_EQ(store.json()["balloon"]["deflate_on_oom"], true);
  EXPECT_FALSE(store.json().contains("balloon/statistics"));
}

TEST(ConfigStoreTest, DevicesAreReplacedById) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/drives/a", Drive("a", true)));
  ASSERT_OK(Put(store, "/drives/b", Drive("b", false)));
  EXPECT_THAT(std::string(Put(store, "/drives/b", Drive("b", true)).message()),
              HasSubstr("drive a is the root device"));
  ASSERT_OK(Put(store, "/drives/a", Drive("a", false)));
  ASSERT_OK(Put(store, "/drives/b", Drive("b", true)));
  EXPECT_EQ(store.json()["drives"].size(), 2u);
  EXPECT_THAT(std::string(Put(store, "/drives/c", Drive("d", false)).message()),
              HasSubstr("differs from the one in the path"));
  EXPECT_FALSE(Put(store, "/drives/a.b", Drive("a.b", false)).ok());
}

TEST(ConfigStoreTest, ThereAreAtMost64OfAKind) {
  ConfigStore store;
  for (int i = 0; i < 64; ++i) {
    const std::string id = absl::StrCat("d", i);
    ASSERT_OK(Put(store, "/drives/" + id, Drive(id, false)));
  }
  EXPECT_FALSE(Put(store, "/drives/x", Drive("x", false)).ok());
  EXPECT_OK(Put(store, "/drives/d63", Drive("d63", true)));
}

TEST(ConfigStoreTest, CardsNeedTheirOwnTapAndAUnicastAddress) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/network-interfaces/eth0",
                Card("eth0", "tap0", ",\"guest_mac\":\"06:00:ac:10:00:02\"")));
  EXPECT_FALSE(
      Put(store, "/network-interfaces/eth1", Card("eth1", "tap0")).ok());
  for (const char* mac : {"06:00:ac:10:00:0g", "06-00-ac-10-00-02",
                          "07:00:ac:10:00:02", "06:00:ac:10:00:002"}) {
    EXPECT_FALSE(
        Put(store, "/network-interfaces/eth1",
            Card("eth1", "tap1", absl::StrCat(",\"guest_mac\":\"", mac, "\"")))
            .ok())
        << mac;
  }
}

TEST(ConfigStoreTest, WindowsAreWholePagesInOrder) {
  ConfigStore store;
  auto put = [&](const std::string& windows) {
    return Put(store, "/confidential",
               absl::StrCat("{\"exchange_windows\":[", windows, "]}"))
        .ok();
  };
  EXPECT_TRUE(
      put("{\"gpa\":\"0x100000000\",\"len\":\"1MiB\"},"
          "{\"gpa\":\"0x100100000\",\"len\":4096}"));
  EXPECT_FALSE(put("{\"gpa\":4096,\"len\":0}"));
  EXPECT_FALSE(put("{\"gpa\":4097,\"len\":4096}"));
  EXPECT_FALSE(put("{\"gpa\":4096,\"len\":4097}"));
  EXPECT_FALSE(put("{\"gpa\":\"0xfffffffffffff000\",\"len\":8192}"));
  EXPECT_FALSE(put("{\"gpa\":8192,\"len\":4096},{\"gpa\":4096,\"len\":4096}"));
  EXPECT_FALSE(put("{\"gpa\":4096,\"len\":8192},{\"gpa\":8192,\"len\":4096}"));
  EXPECT_FALSE(
      Put(store, "/confidential",
          absl::StrCat("{\"expected_digest\":\"", std::string(64, 'g'), "\"}"))
          .ok());
}

// One that no clock can count would have made the limiter divide by zero.
TEST(ConfigStoreTest, ABucketFillsWithinAYear) {
  ConfigStore store;
  auto put = [&](const char* time) {
    return Put(store, "/serial",
               absl::StrCat("{\"serial_out_path\":\"/s\",\"rate_limiter\":"
                            "{\"size\":1,\"refill_time\":",
                            time, "}}"))
        .ok();
  };
  EXPECT_TRUE(put("31536000000"));
  EXPECT_FALSE(put("31536000001"));
  EXPECT_FALSE(put("288230376151711744"));
}

TEST(ConfigStoreTest, ALimitOfTheSerialPortNeedsItsFile) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/boot-source", "{\"kernel_image_path\":\"k\"}"));
  ASSERT_OK(Put(store, "/serial",
                "{\"rate_limiter\":{\"size\":1,\"refill_time\":2}}"));
  EXPECT_THAT(std::string(store.CheckStart().message()),
              HasSubstr("serial_out_path"));
}

TEST(ConfigStoreTest, StartNeedsAKernelAndArgumentsThatWork) {
  ConfigStore store;
  EXPECT_THAT(std::string(store.CheckStart().message()),
              HasSubstr("/boot-source"));
  auto boot = [&](const std::string& arguments) {
    EXPECT_OK(Put(store, "/boot-source",
                  absl::StrCat("{\"kernel_image_path\":\"k\",\"boot_args\":\"",
                               arguments, "\"}")));
    return std::string(store.CheckStart().message());
  };
  EXPECT_EQ(boot("console=ttyS0 pci=off"), "");
  EXPECT_THAT(boot("quiet swiotlb=noforce"), HasSubstr("swiotlb=noforce"));
  EXPECT_THAT(boot("swiotlb=65536,noforce"), HasSubstr("swiotlb=noforce"));
  EXPECT_EQ(boot("noswiotlb=noforce xswiotlb=noforce"), "");
  ASSERT_OK(Put(store, "/drives/a", Drive("a", false)));
  EXPECT_THAT(boot("pci=off"), HasSubstr("pci=off"));
  EXPECT_THAT(boot("pci=nomsi,off"), HasSubstr("pci=off"));
  EXPECT_EQ(boot("pci=noacpi"), "");
  ASSERT_OK(Put(store, "/confidential", "{\"backend\":\"off\"}"));
  EXPECT_EQ(boot("pci=off swiotlb=noforce"), "");
}

TEST(ConfigStoreTest, ATransportAndArgumentsMustAgree) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/boot-source",
                "{\"kernel_image_path\":\"k\",\"boot_args\":\"pci=off\"}"));
  auto start = [&](const std::string& machine) {
    EXPECT_OK(Put(store, "/machine-config", machine, "PATCH"));
    return std::string(store.CheckStart().message());
  };
  EXPECT_EQ(store.CheckStart().message(), "");
  EXPECT_THAT(start("{\"console\":\"virtio\"}"), HasSubstr("pci=off"));
  EXPECT_THAT(start("{\"virtio_transport\":\"pci\"}"),
              HasSubstr("virtio_transport: pci"));
  EXPECT_EQ(start("{\"virtio_transport\":\"mmio-fdt\"}"), "");
  ASSERT_OK(Put(store, "/confidential", "{\"backend\":\"off\"}"));
  EXPECT_THAT(start("{\"virtio_transport\":\"pci\"}"),
              HasSubstr("virtio_transport: pci"));
  ASSERT_OK(Put(store, "/boot-source", "{\"kernel_image_path\":\"k\"}"));
  EXPECT_EQ(store.CheckStart().message(), "");
}

TEST(ConfigStoreTest, FirecrackersMachineHasNoFieldsOfOurs) {
  ConfigStore store;
  EXPECT_FALSE(store.json()["machine-config"].contains("console"));
  EXPECT_FALSE(store.json()["machine-config"].contains("virtio_transport"));
  ASSERT_OK(Put(store, "/machine-config",
                "{\"console\":\"none\",\"virtio_transport\":\"mmio\"}",
                "PATCH"));
  ASSERT_OK(Put(store, "/machine-config", "{\"vcpu_count\":2}", "PATCH"));
  EXPECT_EQ(store.json()["machine-config"]["console"], "none");
  EXPECT_EQ(store.json()["machine-config"]["virtio_transport"], "mmio");
  ASSERT_OK(
      Put(store, "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":64}"));
  EXPECT_FALSE(store.json()["machine-config"].contains("console"));
  EXPECT_FALSE(
      Put(store, "/machine-config", "{\"console\":\"tty\"}", "PATCH").ok());
  EXPECT_FALSE(
      Put(store, "/machine-config", "{\"virtio_transport\":1}", "PATCH").ok());
}

TEST(ConfigStoreTest, LoadsWhatItExports) {
  ConfigStore store;
  ASSERT_OK(Put(store, "/machine-config",
                "{\"console\":\"virtio\",\"virtio_transport\":\"mmio-fdt\"}",
                "PATCH"));
  ASSERT_OK(Put(store, "/drives/a", Drive("a", true)));
  ASSERT_OK(Put(store, "/network-interfaces/eth0", Card("eth0", "tap0")));
  ASSERT_OK(Put(store, "/boot-source", "{\"kernel_image_path\":\"k\"}"));
  ASSERT_OK(Put(store, "/memory/policy", "{\"implicit\":\"deny\"}", "PATCH"));
  ASSERT_OK(Put(store, "/confidential",
                "{\"exchange_windows\":[{\"gpa\":\"0x100000000\",\"len\":"
                "\"1MiB\"}]}"));
  ConfigStore other;
  ASSERT_OK(other.Load(JsonText(store.json())));
  EXPECT_EQ(other.json(), store.json());
  ConfigStore again;
  ASSERT_OK(again.Load(JsonText(store.Shown())));
  EXPECT_EQ(again.json(), store.json());
}

TEST(ConfigStoreTest, LoadNamesTheSection) {
  auto error = [](const std::string& text) {
    ConfigStore store;
    return std::string(store.Load(text).message());
  };
  EXPECT_EQ(error("{\"boot-source\":{\"kernel_image_path\":\"k\"},"
                  "\"balloon\":null,\"drives\":[],\"pmem\":[],"
                  "\"mmds-config\":null,\"memory-hotplug\":null}"),
            "");
  EXPECT_THAT(error("{\"boot-source\":{}}"),
              HasSubstr("boot-source: kernel_image_path"));
  EXPECT_THAT(error("{\"drives\":{}}"), HasSubstr("drives: expected a list"));
  EXPECT_THAT(error("{\"drives\":[{\"drive_id\":7}]}"), HasSubstr("drives: "));
  EXPECT_THAT(error("{\"pmem\":[{}]}"), HasSubstr("pmem: no such section"));
  EXPECT_THAT(error("{\"actions\":{\"action_type\":\"InstanceStart\"}}"),
              HasSubstr("no such section"));
  EXPECT_THAT(error("[]"), HasSubstr("an object"));
  EXPECT_THAT(error("{"), HasSubstr("not JSON"));
}

}  // namespace
}  // namespace cloister::api
