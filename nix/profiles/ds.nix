# The example profile: one derivation per Debian package and per wheel, and `ds`,
# the environment that links them together. No nixpkgs: the plan (a JSON file that
# nodeagent/demo writes) names the sources, the builders use dpkg-deb and patchelf
# of the machine.
{ plan }:
let
  inputs = builtins.fromJSON (builtins.readFile plan);
  source = { name, path }: builtins.path { inherit name path; };
  pick = set: map (name: set.${name});
  named = make: items:
    builtins.listToAttrs (map (item: { inherit (item) name; value = make item; }) items);

  step = attrs: derivation ({
    system = builtins.currentSystem;
    PATH = "/usr/bin:/bin";
    PYTHONHASHSEED = "0";
  } // attrs);

  libraries = named library inputs.libraries;
  library = item: step {
    name = "${item.name}-${item.version}";
    builder = "/usr/bin/python3";
    args = [ "-B" "-I" ./debian.py ];
    parts = map source item.parts;
    needs = pick libraries item.needs;
    platform = pick libraries item.platform;
  };

  python = libraries.${inputs.python};
  interpreter = "${python}/bin/python3";

  wheels = named wheel inputs.wheels;
  wheel = item: step {
    name = "${item.name}-${item.version}";
    builder = interpreter;
    args = [ "-B" "-I" ./wheel.py ];
    src = source item.src;
    needs = pick wheels item.needs;
    inherit python;
  };
in
step {
  name = "ds";
  builder = interpreter;
  args = [ "-B" "-I" ./environment.py ];
  roots = pick wheels inputs.roots;
  inherit python;
}
