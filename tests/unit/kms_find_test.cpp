// Which card is chosen if none is named, and the error if there is none to choose.
#include "../../backends/kms/find.hpp"
#include "support.hpp"

#include <cerrno>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace dmaflow::kms {
namespace {

Card card(std::string path, std::vector<Connection> connections) {
  Card result{.path = std::move(path), .driver = "fake", .connectors = {}, .error = {}};
  for (const Connection connection : connections) {
    result.connectors.push_back({.id = 1,
                                 .name = "HDMI-A-" + std::to_string(result.connectors.size() + 1),
                                 .connection = connection,
                                 .modes = {}});
  }
  return result;
}

Error refusal(const std::vector<Card>& cards) {
  const auto device = open_first(cards);
  EXPECT_FALSE(device);
  return device ? Error::os(EIO, "") : device.error();
}

testing::AssertionResult has(const Error& error, std::string_view words) {
  if (test::mentions(error, words)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << words << "\" is not in: " << error.message();
}

TEST(KmsFirst, WithoutACardItSaysSoAndWhatToDo) {
  const Error none = refusal({});
  EXPECT_EQ(none.code(), ENODEV);
  EXPECT_TRUE(has(none, "no display was found: there is no /dev/dri/card*; "));
  EXPECT_TRUE(has(none, "connect a monitor"));
  EXPECT_TRUE(has(none, "modprobe vkms"));
}

TEST(KmsFirst, WithoutAMonitorEveryCardThatWasLookedAtIsNamed) {
  const Error none = refusal({card("/dev/dri/card0", {Connection::disconnected, Connection::unknown}),
                              card("/dev/dri/card1", {}), card("/dev/dri/card2", {})});
  EXPECT_EQ(none.code(), ENODEV);
  EXPECT_TRUE(has(none, "/dev/dri/card0 (fake): no monitor is connected to HDMI-A-1, HDMI-A-2; "));
  EXPECT_TRUE(has(none, "/dev/dri/card1 (fake), /dev/dri/card2 (fake): a card without a display; connect a monitor"));
  EXPECT_EQ(none.message().find('\n'), std::string::npos) << "one line";
}

TEST(KmsFirst, ACardThatCannotBeTakenComesFirstWithItsReason) {
  const test::FailNth held(1, EACCES, "open");  // the card that has a monitor; no other card is opened
  const Error none =
      refusal({card("/dev/dri/card0", {Connection::disconnected}), card("/dev/null", {Connection::connected})});
  EXPECT_EQ(none.code(), EACCES) << "that of the one which could show something";
  EXPECT_TRUE(has(none, "no display was found: /dev/null (fake): open: EACCES: "));
  EXPECT_TRUE(has(none, "/dev/dri/card0 (fake): no monitor is connected to HDMI-A-1"));
}

}  // namespace
}  // namespace dmaflow::kms
