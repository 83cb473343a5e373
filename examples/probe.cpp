// Says which cameras and displays this machine has, and whether a program may use them now.
//
// With --verdict: one line, "hardware: ..." and status 0 where camera_to_display would find both, "lab: ..." with the
// reason and status 3 where not. The demo asks.
#include <dmaflow/dmaflow.hpp>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <string>

namespace {

void list_cameras() {
  for (const auto& device : dmaflow::v4l2::list()) {
    fmt::print("{}  {} ({}, {}){}{}{}\n", device.path, device.card, device.driver, device.bus,
               device.capture ? "  camera" : "", device.output ? "  video output" : "",
               device.multiplanar ? ", multi-planar" : "");
    if (!device.capture) continue;
    auto camera = dmaflow::v4l2::Camera::open(device.path);
    const auto formats = camera ? (*camera)->formats() : std::unexpected(camera.error());
    if (!formats) {
      fmt::print("    {}\n", formats.error().message());
      continue;
    }
    for (const auto& format : *formats) {
      fmt::print("    {}  {}{}\n", format.format.name(), format.description, format.known ? "" : "  (not known here)");
    }
  }
}

void list_displays() {
  for (const auto& card : dmaflow::kms::list()) {
    fmt::print("{}  {}\n", card.path, card.error ? card.error->message() : card.driver);
    for (const auto& connector : card.connectors) {
      using dmaflow::kms::Connection;
      fmt::print("    {}  {}\n", connector.name,
                 connector.connection == Connection::connected      ? "connected"
                 : connector.connection == Connection::disconnected ? "disconnected"
                                                                    : "not known whether connected");
      for (const auto& mode : connector.modes)
        fmt::print("        {}{}\n", mode.describe(), mode.is_preferred ? "  preferred" : "");
    }
  }
}

int no(const std::string& reason) {
  fmt::print("lab: {}\n", reason);
  return 3;
}

int verdict(const std::string& camera_path, const std::string& display_path) {
  std::string camera = camera_path;
  for (const auto& device : dmaflow::v4l2::list()) {
    if (camera.empty() && device.capture && device.streaming) camera = device.path;
  }
  if (camera.empty()) return no("this machine has no camera that may be opened");
  const auto opened = dmaflow::v4l2::Camera::open(camera);
  if (!opened) return no(opened.error().message());
  const auto display = dmaflow::kms::Device::open(display_path);
  if (!display) {
    if (display.error().code() == EBUSY) return no("a compositor holds the display: " + display.error().message());
    return no(display.error().message());
  }
  if (const auto output = (*display)->output(); !output) return no(output.error().message());
  fmt::print("hardware: {} and {}\n", (*opened)->name(), (*display)->name());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string camera;
  std::string display;
  bool only_verdict = false;
  CLI::App app("Says which cameras and displays this machine has.");
  app.add_flag("--verdict", only_verdict, "one line: whether camera_to_display can run on this machine");
  app.add_option("--camera", camera, "with --verdict: this one");
  app.add_option("--display", display, "with --verdict: this one");
  CLI11_PARSE(app, argc, argv);
  if (only_verdict) return verdict(camera, display);
  list_cameras();
  list_displays();
  return verdict(camera, display);
}
