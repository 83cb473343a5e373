// The devices as an indented list.
#include "probe_print.hpp"

#include "probe_text.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace {

constexpr std::size_t name_width = 15;

/// "  /dev/video0          what it is"
void print_entry(std::string_view name, std::string_view what, const Style& style) {
  fmt::print("  {:<{}} ", name, name_width);
  print_wrapped(what, name_width + 3, name_width + 3, style);
}

/// A line under an entry.
void print_detail(std::string_view text, const Style& style) {
  fmt::print("{:{}}", "", name_width + 3);
  print_wrapped(text, name_width + 3, name_width + 5, style);
}

/// Prints nothing if there is no error. The name of the device was printed before.
void print_error(const Json& device, const Style& style) {
  if (!device.contains("error")) return;
  fmt::print("{:{}}", "", name_width + 3);
  fmt::print("{} ", coloured("not usable:", bad, style));
  print_wrapped(device["error"]["message"].get<std::string>(), name_width + 15, name_width + 5, style);
}

/// The first few, unless all were requested.
std::string abridged(const std::vector<std::string>& words, std::size_t most, const Style& style) {
  if (style.is_long || words.size() <= most + 1) return joined(words, " ");
  return fmt::format("{} and {} more", joined({words.begin(), words.begin() + static_cast<std::ptrdiff_t>(most)}, " "),
                     words.size() - most);
}

/// Groups words that have the same description, in the order of the first word of each group.
class Groups {
 public:
  void add(std::string word, const std::string& what) {
    const auto found = std::ranges::find(groups_, what, &Group::what);
    Group& group = found == groups_.end() ? groups_.emplace_back(what) : *found;
    word.resize(word.find_last_not_of(' ') + 1);  // "R8  "
    if (std::ranges::find(group.words, word) == group.words.end()) group.words.push_back(std::move(word));
  }
  /// One line for each group, after @p before: "XR24 AR24: LINEAR".
  void print(const Style& style, const std::string& before = {}) const {
    for (const Group& group : groups_) {
      const std::string words = abridged(group.words, 12, style);
      print_detail(fmt::format("{}{}{}{}", before, words, group.what.empty() ? "" : ": ", group.what), style);
    }
  }

 private:
  struct Group {
    explicit Group(std::string text) : what(std::move(text)) {}
    std::string what;
    std::vector<std::string> words;
  };
  std::vector<Group> groups_;
};

// --- Devices

std::string describe_heap(const Json& heap) {
  const auto word = [&](const char* key, const char* yes, const char* no) -> std::string {
    return heap[key].is_null() ? "" : heap[key].get<bool>() ? yes : no;
  };
  std::vector<std::string> words{word("contiguous", "contiguous", "scattered"), word("cached", "cached", "uncached"),
                                 word("protected", "out of the CPU's reach", "")};
  std::erase(words, "");
  return words.empty() ? "nothing known of its memory" : joined(words, ", ");
}

void print_memory(const Json& devices, const Style& style) {
  print_heading("Memory", style);
  for (const Json& heap : devices["heaps"]) {
    print_entry("heap:" + heap["name"].get<std::string>(), describe_heap(heap), style);
    print_error(heap, style);
  }
  if (devices["heaps"].empty()) {
    print_entry("no heaps:", "this kernel has no /dev/dma_heap (CONFIG_DMABUF_HEAPS_SYSTEM)", style);
  }
  const Json& udmabuf = devices["udmabuf"];
  const std::string limit =
      udmabuf.contains("limit_mb") ? fmt::format(", at most {} MB a buffer", udmabuf["limit_mb"].get<int>()) : "";
  print_entry("udmabuf", "scattered, cached" + limit, style);
  print_error(udmabuf, style);
}

/// "320x180 to 1920x1080, 1 to 60 fps", from the sizes that a format lists.
std::string describe_sizes(const Json& sizes) {
  if (sizes.empty()) return {};
  std::string text = sizes.front()["min"];
  if (sizes.size() > 1 || sizes.front()["min"] != sizes.front()["max"]) {
    text += " to " + sizes.back()["max"].get<std::string>();
  }
  if (sizes.size() > 1) text += fmt::format(" ({} sizes)", sizes.size());
  double slowest = 0;
  double fastest = 0;
  for (const Json& size : sizes) {
    if (!size.contains("fastest")) continue;
    fastest = std::max(fastest, size["fastest"].get<double>());
    slowest = slowest == 0 ? size["slowest"].get<double>() : std::min(slowest, size["slowest"].get<double>());
  }
  if (fastest > 0 && slowest == fastest) text += fmt::format(", {:.4g} fps", fastest);
  if (fastest > slowest) text += fmt::format(", {:.4g} to {:.4g} fps", slowest, fastest);
  return text;
}

std::string describe_ports(const Json& ports) {
  std::vector<std::string> words;
  for (const Json& port : ports) {
    std::string word = port["name"];
    if (port["current"].get<bool>()) word += " (current)";
    if (const std::string problem = port["problem"]; !problem.empty()) word += " (" + problem + ")";
    words.push_back(std::move(word));
  }
  return joined(words, ", ");
}

void print_video(const Json& device, const char* ports, const Style& style) {
  if (device.contains("card")) {
    print_entry(
        device["path"].get<std::string>(),
        fmt::format("{} ({}), {}-planar", device["card"].get<std::string>(), device["driver"].get<std::string>(),
                    device["multiplanar"].get<bool>() ? "multi" : "single"),
        style);
  } else {
    print_entry(device["path"].get<std::string>(), "", style);
  }
  print_error(device, style);
  if (!device.contains("formats")) return;
  if (device[ports].size() > 1) print_detail(fmt::format("{}: {}", ports, describe_ports(device[ports])), style);
  Groups formats;
  for (const Json& format : device["formats"]) {
    std::string what = format.contains("sizes") ? describe_sizes(format["sizes"]) : "";
    if (format["compressed"].get<bool>()) what += what.empty() ? "compressed" : ", compressed";
    if (!format["known"].get<bool>() && !format["compressed"].get<bool>())
      what += what.empty() ? "not known to dmaflow" : ", not known to dmaflow";
    formats.add(format["fourcc"], what);
  }
  formats.print(style);
}

void print_videos(const Json& devices, const Style& style) {
  print_heading("Cameras", style);
  for (const Json& camera : devices["cameras"]) print_video(camera, "inputs", style);
  if (devices["cameras"].empty()) {
    print_entry("no cameras:",
                "there is no /dev/videoN. Plugged in? In a container, are the devices passed in? "
                "(modprobe vivid makes a virtual one)",
                style);
  }
  if (devices["video_outputs"].empty()) return;
  print_heading("Video outputs", style);
  for (const Json& output : devices["video_outputs"]) print_video(output, "outputs", style);
}

std::string describe_modes(const Json& modes, const Style& style) {
  std::vector<std::string> words;
  for (const Json& mode : modes) {
    std::string word = fmt::format("{}{}@{:.4g}", mode["size"].get<std::string>(),
                                   mode["interlaced"].get<bool>() ? "i" : "", mode["hz"].get<double>());
    if (mode["preferred"].get<bool>()) word += " (preferred)";
    words.push_back(std::move(word));
  }
  return abridged(words, 5, style);
}

/// Planes with the same formats in one line: "overlay planes 35 38: XR24 AR24: LINEAR".
void print_planes(const Json& planes, const Style& style) {
  std::vector<std::pair<Json, std::vector<std::string>>> groups;
  for (const Json& plane : planes) {
    Json key = Json::array({plane["kind"], plane["formats"]});
    auto found = std::ranges::find(groups, key, [](const auto& group) -> const Json& { return group.first; });
    if (found == groups.end()) found = groups.emplace(groups.end(), std::move(key), std::vector<std::string>());
    found->second.push_back(std::to_string(plane["id"].get<unsigned>()));
  }
  for (const auto& [key, ids] : groups) {
    Groups formats;
    for (const Json& format : key[1]) {
      const auto modifiers = format["modifiers"].get<std::vector<std::string>>();
      formats.add(format["fourcc"], modifiers.empty() ? "no modifiers" : joined(modifiers, " "));
    }
    const std::string which = abridged(ids, 4, style);
    formats.print(style, fmt::format("{} plane{} {}: ", key[0].get<std::string>(), ids.size() > 1 ? "s" : "", which));
  }
}

void print_cards(const Json& devices, const Style& style) {
  print_heading("Displays", style);
  for (const Json& card : devices["cards"]) {
    const bool is_display = !card["connectors"].empty() || card["driver"].get<std::string>().empty();
    print_entry(card["path"].get<std::string>(),
                card["driver"].get<std::string>() + (is_display ? "" : ", without a display"), style);
    if (is_display) print_error(card, style);
    for (const Json& connector : card["connectors"]) {
      print_detail(fmt::format("{} {}: {}", connector["name"].get<std::string>(),
                               connector["connection"].get<std::string>(), describe_modes(connector["modes"], style)),
                   style);
    }
    print_planes(card["planes"], style);
  }
  if (devices["cards"].empty()) {
    print_entry("no displays:",
                "there is no /dev/dri/cardN. In a container, are the devices passed in? "
                "(modprobe vkms makes a virtual one)",
                style);
  }
}

void print_gbm(const Json& devices, const Style& style) {
  if (devices["gbm"].empty()) return;
  print_heading("GBM", style);
  Json before;  // most nodes have the same backend, which reports the same formats for all
  for (const Json& node : devices["gbm"]) {
    const Json list = node.value("formats", Json::array());
    const bool is_same = !list.empty() && list == before;
    print_entry(node["path"].get<std::string>(), node.value("driver", "") + (is_same ? ", the same formats" : ""),
                style);
    print_error(node, style);
    if (is_same) continue;
    before = list;
    Groups formats;
    for (const Json& format : list) {
      std::vector<std::string> uses;
      for (const char* use : {"scanout", "render", "linear"}) {
        if (format[use].get<bool>()) uses.emplace_back(use);
      }
      formats.add(format["fourcc"], uses.empty() ? "" : "for " + joined(uses, ", "));
    }
    formats.print(style);
  }
}

/// "LINEAR 0x0100000000000001 (import only)".
std::string describe_modifiers(const Json& modifiers) {
  std::vector<std::string> words;
  for (const Json& one : modifiers) {
    const bool in = one["importable"];
    const bool out = one["exportable"];
    words.push_back(one["modifier"].get<std::string>() + (in && out ? ""
                                                          : in      ? " (import only)"
                                                          : out     ? " (export only)"
                                                                    : " (not shared)"));
  }
  return joined(words, " ");
}

void print_vulkan(const Json& devices, const Style& style) {
  print_heading("Vulkan", style);
  if (devices.contains("vulkan_error")) {
    print_entry("no GPUs:", devices["vulkan_error"]["message"].get<std::string>(), style);
  }
  for (const Json& device : devices["vulkan"]) {
    const std::string node = device.value("node", "");
    fmt::print("  {}{}\n", device["name"].get<std::string>(), node.empty() ? "" : ", " + node);
    print_error(device, style);
    Groups formats;
    for (const Json& format : device.value("formats", Json::array())) {
      formats.add(format["fourcc"], describe_modifiers(format["modifiers"]));
    }
    formats.print(style);
  }
}

}  // namespace

void print_devices(const Json& devices, const Style& style) {
  print_memory(devices, style);
  print_videos(devices, style);
  print_cards(devices, style);
  print_gbm(devices, style);
  print_vulkan(devices, style);
}
