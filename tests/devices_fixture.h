// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_DEVICES_FIXTURE_H_
#define CLOISTER_TESTS_DEVICES_FIXTURE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cloister/tests/guest_process.h"
#include "gtest/gtest.h"

namespace cloister::tests {

// Names a case after its backend.
std::string BackendName(const ::testing::TestParamInfo<const char*>& info);

// A guest whose console takes commands, one a line, each answered with "ended
// with STATUS.", and whose monitor has an API. The parameter is the backend.
class DevicesFixture : public ::testing::TestWithParam<const char*> {
 protected:
  // How long the guest may take for one thing.
  explicit DevicesFixture(std::chrono::seconds patience)
      : patience_(patience) {}
  // Before what its devices are on goes.
  void TearDown() override { guest_.reset(); }

  bool Confidential() const { return std::string(GetParam()) != "off"; }

  // Runs a command in the guest; what it said.
  std::string Do(const std::string& command);

  // What the API at `api_` says.
  nlohmann::json Get(const std::string& path);
  // A device's counter or gauge, 0 if there is none of the name; the device
  // must be there.
  uint64_t Count(const std::string& device, const std::string& name);
  // Looks until it is so; false if it does not become so.
  bool Eventually(const std::function<bool()>& condition);

  // Runs `transfer` while the guest converts memory: Linux takes pages for a
  // device's rings when its driver comes, and shares them, and makes them
  // private again when it goes; so does an idle `card` with `queues`. Without
  // private memory the transfer alone.
  void WhileItConverts(const std::string& card, uint64_t queues,
                       const std::function<void()>& transfer);
  // The host is done with the guest's memory once nothing moves.
  void NoLeaseIsLeft();

  const std::chrono::seconds patience_;
  std::string api_;
  std::unique_ptr<GuestProcess> guest_;

 private:
  uint64_t Converted(const char* way);
  void StartConverting(const std::string& card);
  // How often the card came.
  uint64_t StopConverting();
};

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_DEVICES_FIXTURE_H_
