#include "probe_parties.hpp"

#include "probe_party_kinds.hpp"
#include "probe_progress.hpp"

#include <dmaflow/dmaflow.hpp>

#include <algorithm>
#include <cerrno>

using namespace dmaflow;

namespace {

// --- Devices that cannot be used

class NoMaker final : public Maker {
 public:
  NoMaker(Party who, const Error& why) : Maker(std::move(who)), why_(why) {}
  [[nodiscard]] bool makes(PixelFormat /*format*/) override { return true; }
  Result<std::vector<Buffer>> make(const StreamConfig& /*config*/, const std::vector<Modifier>& /*modifiers*/,
                                   std::uint32_t /*count*/) override {
    return std::unexpected(why_);
  }

 private:
  Error why_;
};

class NoUser final : public User {
 public:
  NoUser(Party who, const Error& why) : User(std::move(who)), why_(why) {}
  Result<std::vector<FormatModifier>> formats() override { return std::unexpected(why_); }
  [[nodiscard]] Size size() const override { return usual_size; }
  Result<StreamConfig> prepare(const StreamConfig& /*config*/) override { return std::unexpected(why_); }
  Result<std::string> import(const Buffer& /*buffer*/) override { return std::unexpected(why_); }

 private:
  Error why_;
};

// --- Allocators

/// Any dmaflow::Allocator: heaps, udmabuf, a display's, GBM's, Vulkan's.
class AllocatorMaker final : public Maker {
 public:
  /// @p formats: all that it makes; empty = any. @p owner: the object that owns the allocator.
  AllocatorMaker(Party who, Allocator& allocator, std::shared_ptr<void> owner, std::vector<PixelFormat> formats = {})
      : Maker(std::move(who)), allocator_(allocator), owner_(std::move(owner)), formats_(std::move(formats)) {}

  [[nodiscard]] bool makes(PixelFormat format) override {
    return formats_.empty() || std::ranges::find(formats_, format) != formats_.end();
  }
  Result<std::vector<Buffer>> make(const StreamConfig& config, const std::vector<Modifier>& modifiers,
                                   std::uint32_t count) override {
    return allocator_.allocate({.size = config.layout.size,
                                .format = config.layout.format,
                                .modifiers = modifiers,
                                .opaque_bytes = config.layout.opaque_bytes,
                                .count = count,
                                .constraints = config.constraints});
  }

 private:
  Allocator& allocator_;
  std::shared_ptr<void> owner_;
  std::vector<PixelFormat> formats_;
};

// --- Displays and GPUs

/// A card's connector. Frames are tested by the driver (DRM_MODE_ATOMIC_TEST_ONLY) and not shown.
class DisplayUser final : public User {
 public:
  DisplayUser(Party who, std::shared_ptr<kms::Device> card, kms::Output& output, kms::Plane& plane)
      : User(std::move(who)), card_(std::move(card)), output_(output), plane_(plane) {}

  Result<std::vector<FormatModifier>> formats() override { return plane_.formats(); }
  [[nodiscard]] Size size() const override {
    const auto& modes = output_.modes();
    const auto preferred = std::ranges::find(modes, true, &kms::Mode::is_preferred);
    if (preferred != modes.end()) return preferred->size;
    return modes.empty() ? usual_size : modes.front().size;
  }
  Result<StreamConfig> prepare(const StreamConfig& config) override {
    StreamConfig whole = described(config);
    if (auto configured = plane_.set_input(whole); !configured) return std::unexpected(configured.error());
    return whole;
  }
  Result<std::string> import(const Buffer& buffer) override {
    if (auto imported = plane_.import(buffer); !imported) return std::unexpected(imported.error());
    if (!plane_.moves(buffer)) return {};
    return "the driver moves this memory when it is shown: nobody else may write to it then but the CPU";
  }

 private:
  std::shared_ptr<kms::Device> card_;
  kms::Output& output_;
  kms::Plane& plane_;
};

#ifdef DMAFLOW_HAS_GBM
class GbmUser final : public User {
 public:
  GbmUser(Party who, std::shared_ptr<gbm::Device> device) : User(std::move(who)), device_(std::move(device)) {}

  /// Only GBM knows the arrangement of memory without an explicit modifier, so such memory comes last.
  Result<std::vector<FormatModifier>> formats() override {
    const auto uses = device_->formats();
    if (!uses) return std::unexpected(uses.error());
    std::vector<FormatModifier> result;
    for (const auto& use : *uses) {
      if (use.linear) result.push_back({use.format, Modifier::linear()});
      result.push_back({use.format, Modifier::implicit()});
    }
    return result;
  }
  [[nodiscard]] Size size() const override { return usual_size; }
  Result<StreamConfig> prepare(const StreamConfig& config) override { return config; }
  Result<std::string> import(const Buffer& buffer) override {
    if (auto bo = device_->import(buffer); !bo) return std::unexpected(bo.error());
    return {};
  }

 private:
  std::shared_ptr<gbm::Device> device_;
};
#endif

#ifdef DMAFLOW_HAS_VULKAN
constexpr VkImageUsageFlags sampled = VK_IMAGE_USAGE_SAMPLED_BIT;

class VulkanUser final : public User {
 public:
  VulkanUser(Party who, std::shared_ptr<vulkan::Device> device) : User(std::move(who)), device_(std::move(device)) {}

  Result<std::vector<FormatModifier>> formats() override {
    std::vector<FormatModifier> result;
    for (const FormatInfo& info : known_formats()) {
      for (const auto& one : device_->support(info.format, sampled)) {
        if (one.importable) result.push_back({one.format, one.modifier});
      }
    }
    return result;
  }
  [[nodiscard]] Size size() const override { return usual_size; }
  Result<StreamConfig> prepare(const StreamConfig& config) override { return config; }
  Result<std::string> import(const Buffer& buffer) override {
    if (auto image = device_->import_image(buffer, sampled); !image) return std::unexpected(image.error());
    return {};
  }

 private:
  std::shared_ptr<vulkan::Device> device_;
};
#endif

}  // namespace

StreamConfig described(StreamConfig config) {
  if (!config.layout.modifier.is_linear() || config.layout.planes[0].stride != 0) return config;
  if (auto layout = Layout::linear(config.layout.format, config.layout.size)) config.layout = *layout;
  return config;
}

std::unique_ptr<Maker> no_maker(Party party, const Error& why) {
  return std::make_unique<NoMaker>(std::move(party), why);
}
std::unique_ptr<User> no_user(Party party, const Error& why) { return std::make_unique<NoUser>(std::move(party), why); }

// --- Finding them

namespace {

void add_memory(Parties& all) {
  for (const auto& info : heap::list()) {
    const Party party{"heap:" + info.name, "memory", "heap:" + info.name};
    auto opened = heap::Allocator::open(info.name);
    if (!opened) {
      all.makers.push_back(no_maker(party, opened.error()));
      continue;
    }
    const std::shared_ptr<heap::Allocator> heap = std::move(*opened);
    all.makers.push_back(std::make_unique<AllocatorMaker>(party, *heap, heap));
  }
  const Party party{"udmabuf", "memory", "udmabuf"};
  auto opened = udmabuf::Allocator::open();
  if (opened) {
    const std::shared_ptr<udmabuf::Allocator> allocator = std::move(*opened);
    all.makers.push_back(std::make_unique<AllocatorMaker>(party, *allocator, allocator));
  } else if (opened.error().code() != ENOENT) {
    all.makers.push_back(no_maker(party, opened.error()));
  }
}

/// One column for each connected monitor.
void add_monitors(Parties& all, const Party& party, const std::shared_ptr<kms::Device>& card,
                  const MatrixOptions& options) {
  const auto connectors = card->connectors();
  std::vector<kms::Connector> monitors = connectors.value_or(std::vector<kms::Connector>());
  std::erase_if(monitors, [](const auto& one) { return one.connection != kms::Connection::connected; });
  if (monitors.empty()) {
    const auto none = card->output();
    if (!none) all.users.push_back(no_user(party, none.error()));
  }
  for (const auto& monitor : monitors) {
    Party one = party;
    if (monitors.size() > 1) {
      one.id += " " + monitor.name;
      one.label += " " + monitor.name;
    }
    const auto output = card->output({.connector = monitor.name});
    const auto plane =
        output ? (*output)->plane({.may_show_to_try = options.may_show}) : std::unexpected(output.error());
    if (plane) {
      all.users.push_back(std::make_unique<DisplayUser>(one, card, **output, **plane));
    } else {
      all.users.push_back(no_user(one, plane.error()));
    }
  }
}

void add_display(Parties& all, const kms::Card& seen, const MatrixOptions& options) {
  const Party party{"display:" + seen.path, "display", file_name(seen.path)};
  const Party memory{party.id, "display", party.label + " dumb"};
  auto opened = kms::Device::open(seen.path);
  if (!opened) {
    if (seen.connectors.empty() && !seen.error) return;  // a card without a display
    all.makers.push_back(no_maker(memory, opened.error()));
    all.users.push_back(no_user(party, opened.error()));
    return;
  }
  const std::shared_ptr<kms::Device> card = std::move(*opened);
  if (Allocator* const dumb = card->allocator()) {
    all.makers.push_back(std::make_unique<AllocatorMaker>(memory, *dumb, card));
  }
  add_monitors(all, party, card, options);
}

#ifdef DMAFLOW_HAS_GBM
void add_gbm(Parties& all, const std::string& path) {
  const std::string name = file_name(path);
  const Party user{"gbm:" + path, "GBM", name.starts_with("renderD") ? name.substr(6) : name};
  const Party maker{user.id, "GBM", "GBM " + user.label};
  auto opened = gbm::Device::open(path);
  if (!opened) {
    all.makers.push_back(no_maker(maker, opened.error()));
    all.users.push_back(no_user(user, opened.error()));
    return;
  }
  const std::shared_ptr<gbm::Device> device = std::move(*opened);
  std::vector<PixelFormat> formats;
  for (const auto& use : device->formats().value_or(std::vector<gbm::FormatUse>())) formats.push_back(use.format);
  all.makers.push_back(std::make_unique<AllocatorMaker>(maker, device->allocator(), device, formats));
  all.users.push_back(std::make_unique<GbmUser>(user, device));
}
#endif

#ifdef DMAFLOW_HAS_VULKAN
/// "llvmpipe" of "llvmpipe (LLVM 19.1.7, 256 bits)": one word is enough to distinguish the GPUs of a machine.
std::string short_name(const vulkan::PhysicalDevice& device) {
  const std::string& name = device.driver.empty() ? device.name : device.driver;
  return name.substr(0, std::min<std::size_t>(name.find(' '), 8));
}

void add_vulkan(Parties& all, Progress& progress) {
  const auto seen = vulkan::list();
  for (const auto& one : seen.value_or(std::vector<vulkan::PhysicalDevice>())) {
    if (one.refusal || !progress.next("opening " + one.name)) continue;
    const Party party{"vulkan:" + one.name, "Vulkan", short_name(one)};
    auto created = vulkan::Device::create({.node = one.node, .name = one.name});
    if (!created) {
      all.makers.push_back(no_maker(party, created.error()));
      all.users.push_back(no_user(party, created.error()));
      continue;
    }
    const std::shared_ptr<vulkan::Device> device = std::move(*created);
    all.makers.push_back(std::make_unique<AllocatorMaker>(party, device->allocator(), device));
    all.users.push_back(std::make_unique<VulkanUser>(party, device));
  }
}
#endif

}  // namespace

Parties find_parties(const MatrixOptions& options, Progress& progress) {
  Parties all;
  add_memory(all);
  const auto video = v4l2::list();
  for (const auto& device : video) {
    if (device.capture && progress.next("opening " + device.path)) add_camera(all, device);
  }
  for (const auto& device : video) {
    if (device.output && progress.next("opening " + device.path)) add_output(all, device);
  }
  // Before GBM: the first to open a card becomes its master, and gbm::Device gives up being the master.
  for (const auto& card : kms::list()) {
    if (progress.next("opening " + card.path)) add_display(all, card, options);
  }
#ifdef DMAFLOW_HAS_GBM
  for (const char* kind : {"card", "renderD"}) {
    for (const std::string& path : nodes("/dev/dri", kind)) {
      if (progress.next("opening " + path)) add_gbm(all, path);
    }
  }
#endif
#ifdef DMAFLOW_HAS_VULKAN
  add_vulkan(all, progress);
#endif
  return all;
}
