// Data from the kernel: IN_FORMATS blobs and uevents, well-formed or not; and the modifier rule.
#include "../../backends/kms/framebuffer.hpp"
#include "../../backends/kms/hotplug.hpp"
#include "../../backends/kms/ring.hpp"

#include <dmaflow/kms.hpp>

#include <cstring>
#include <string>

#include <gtest/gtest.h>
#include <libdrm/drm_mode.h>

namespace dmaflow::kms {
[[nodiscard]] std::vector<FormatModifier> parse_in_formats(std::span<const std::byte> blob);
}

namespace {

using namespace dmaflow;
using namespace dmaflow::kms;
using namespace std::string_view_literals;

constexpr Modifier tiled = Modifier::from_value(0x0100000000000001);

std::vector<std::byte> blob(std::uint32_t formats, std::uint32_t modifiers) {
  drm_format_modifier_blob header{};
  header.version = 1;
  header.count_formats = formats;
  header.formats_offset = sizeof header;
  header.count_modifiers = modifiers;
  header.modifiers_offset = sizeof header + 3 * sizeof(std::uint32_t) + 4;
  const std::uint32_t codes[3] = {formats::xrgb8888.fourcc, formats::nv12.fourcc, formats::rgb565.fourcc};
  const drm_format_modifier entries[2] = {{.formats = 0b111, .offset = 0, .pad = 0, .modifier = 0},
                                          {.formats = 0b10, .offset = 1, .pad = 0, .modifier = tiled.value()}};
  std::vector<std::byte> bytes(header.modifiers_offset + sizeof entries);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + header.formats_offset, codes, sizeof codes);
  std::memcpy(bytes.data() + header.modifiers_offset, entries, sizeof entries);
  return bytes;
}

TEST(KmsInFormats, EveryPairIsRead) {
  const std::vector<FormatModifier> wanted = {{formats::xrgb8888, Modifier::linear()},
                                              {formats::nv12, Modifier::linear()},
                                              {formats::rgb565, Modifier::linear()},
                                              {formats::rgb565, tiled}};
  EXPECT_EQ(parse_in_formats(blob(3, 2)), wanted);
}

TEST(KmsInFormats, ABlobThatSaysMoreThanItHasIsNotBelieved) {
  EXPECT_TRUE(parse_in_formats({}).empty());
  EXPECT_TRUE(parse_in_formats(blob(0xffffffff, 2)).empty());
  EXPECT_TRUE(parse_in_formats(blob(3, 0xffffffff)).empty());
  const auto whole = blob(3, 2);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(parse_in_formats(std::span(whole).first(size)).empty()) << size;
  }
  EXPECT_EQ(parse_in_formats(blob(2, 2)).size(), 2U) << "bits without a format are left out";
}

TEST(KmsUevent, AMonitorsChangeIsRecognised) {
  const auto event =
      parse_uevent("change@/devices/x/drm/card1\0ACTION=change\0SUBSYSTEM=drm\0DEVNAME=dri/card1\0HOTPLUG=1\0"sv);
  EXPECT_TRUE(event.is_drm);
  EXPECT_TRUE(event.is_change);
  EXPECT_EQ(event.device, "dri/card1");
}

TEST(KmsUevent, OtherReportsAndRubbishAreNot) {
  EXPECT_FALSE(parse_uevent("add@/devices/usb\0ACTION=add\0SUBSYSTEM=usb\0DEVNAME=bus/usb/1\0"sv).is_drm);
  EXPECT_FALSE(parse_uevent("ACTION=add\0SUBSYSTEM=drm"sv).is_change);
  for (const auto text : {""sv, "\0"sv, "\0\0\0"sv, "SUBSYSTEM=drmx"sv, "DEVNAME="sv}) {
    const auto event = parse_uevent(text);
    EXPECT_FALSE(event.is_drm);
    EXPECT_TRUE(event.device.empty());
  }
}

TEST(KmsModifier, OnlyKnownLinearGoesUnstatedToDevicesWithoutModifiers) {
  EXPECT_EQ(linear_without_modifiers(Modifier::linear(), true), ModifierUse::stated);
  EXPECT_EQ(linear_without_modifiers(Modifier::linear(), false), ModifierUse::left_out);
  EXPECT_EQ(linear_without_modifiers(tiled, true), ModifierUse::stated);
  EXPECT_EQ(linear_without_modifiers(tiled, false), std::nullopt);
  EXPECT_EQ(linear_without_modifiers(Modifier::implicit(), true), ModifierUse::left_out) << "never becomes LINEAR";
  EXPECT_EQ(linear_without_modifiers(Modifier::implicit(), false), ModifierUse::left_out);
}

TEST(KmsRing, AFullRingLosesItsOldest) {
  Ring<int, 3> ring;
  EXPECT_TRUE(ring.empty());
  for (int i = 1; i <= 5; ++i) ring.push() = i;
  for (int i = 3; i <= 5; ++i) {
    ASSERT_FALSE(ring.empty());
    EXPECT_EQ(ring.front(), i);
    ring.pop();
  }
  EXPECT_TRUE(ring.empty());
}

TEST(KmsMode, ReadsAsPeopleSayIt) {
  EXPECT_EQ((Mode{.size = {1280, 720}, .refresh_mhz = 59940}.describe()), "1280x720@59.94");
  EXPECT_EQ((Mode{.size = {800, 600}, .refresh_mhz = 60004}.describe()), "800x600@60.00");
  EXPECT_EQ((Mode{.size = {1920, 1080}, .refresh_mhz = 50000, .is_preferred = false, .is_interlaced = true}.describe()),
            "1920x1080i@50.00");
}

}  // namespace
