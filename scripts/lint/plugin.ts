import { relative } from "node:path";
import { mayDo } from "./homes.ts";

/** What these rules read of a syntax tree node; the parser's own types are much larger. */
interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}

interface Context {
  readonly filename: string;
  readonly cwd: string;
  readonly sourceCode: {
    readonly getText: (node: Node) => string;
    readonly getCommentsBefore: (node: Node) => unknown[];
  };
  report(descriptor: { readonly node: Node; readonly message: string }): void;
}

type Visitor = Readonly<Record<string, (node: Node) => void>>;
interface Rule {
  create(context: Context): Visitor;
}

const fileOf = (context: Context): string => relative(context.cwd, context.filename);
const nodeOf = (value: unknown): Node | null => (typeof value === "object" && value !== null ? (value as Node) : null);
const stringOr = (value: unknown): string => (typeof value === "string" ? value : "");
const nameOf = (value: unknown): string => stringOr(nodeOf(value)?.["name"]);
const textOf = (value: unknown): string => stringOr(nodeOf(value)?.["value"]);
const nodesOf = (value: unknown): readonly Node[] => (Array.isArray(value) ? (value as Node[]) : []);

/** `a.b.c` as written, from identifiers only; empty for anything else. */
function dotted(value: unknown): string {
  const node = nodeOf(value);
  if (node?.type === "Identifier") return nameOf(node);
  if (node?.type !== "MemberExpression") return "";
  const property = node["computed"] === true ? textOf(node["property"]) : nameOf(node["property"]);
  return `${dotted(node["object"])}.${property}`;
}

/** Calls back with each module a file takes in, however it does so. */
function onImport(visit: (specifier: string, node: Node) => void): Visitor {
  const fromSource = (node: Node): void => {
    const specifier = textOf(node["source"]);
    if (specifier !== "") visit(specifier, node);
  };
  return {
    ImportDeclaration: fromSource,
    ExportNamedDeclaration: fromSource,
    ExportAllDeclaration: fromSource,
    ImportExpression: fromSource,
    CallExpression: (node) => {
      const called = dotted(node["callee"]);
      if (["require", "process.getBuiltinModule", "process.binding"].includes(called)) {
        visit(textOf(nodesOf(node["arguments"])[0]), node);
      }
    },
  };
}

const processHome: Rule = {
  create: (context) => {
    if (mayDo("process", fileOf(context))) return {};
    return onImport((specifier, node) => {
      if (!/^(?:node:)?(?:child_process|cluster)$/.test(specifier)) return;
      context.report({ node, message: "Processes are started in packages/engine/src/system only: use runProgram." });
    });
  },
};

const REMOVALS = /(?:^|\.)(?:rm|rmSync|rmdir|rmdirSync)$/;

const removalHome: Rule = {
  create: (context) => {
    if (mayDo("removal", fileOf(context))) return {};
    return {
      CallExpression: (node) => {
        if (!REMOVALS.test(dotted(node["callee"]))) return;
        const options = nodesOf(node["arguments"])[1];
        if (options === undefined) return;
        // Options that are not written here may well say recursive.
        const isSafe = options.type === "ObjectExpression" && nodesOf(options["properties"]).every(isNotRecursive);
        if (!isSafe) context.report({ node, message: "Recursive deletion has one home: use removeTree." });
      },
    };
  },
};

function isNotRecursive(property: Node): boolean {
  if (property.type !== "Property" || property["computed"] === true) return false;
  const key = nameOf(property["key"]) || textOf(property["key"]);
  return key !== "recursive" || nodeOf(property["value"])?.["value"] === false;
}

const environmentHome: Rule = {
  create: (context) => {
    if (mayDo("environment", fileOf(context))) return {};
    const message = "The environment is read in config files only: take what is needed as an argument.";
    return {
      MemberExpression: (node) => {
        if (dotted(node) === "process.env") context.report({ node, message });
      },
      VariableDeclarator: (node) => {
        if (dotted(node["init"]) !== "process") return;
        const taken = nodesOf(nodeOf(node["id"])?.["properties"]).map((property) => nameOf(property["key"]));
        if (taken.includes("env")) context.report({ node, message });
      },
      ImportDeclaration: (node) => {
        const taken = nodesOf(node["specifiers"]).map((specifier) => nameOf(specifier["imported"]));
        if (/^(?:node:)?process$/.test(textOf(node["source"])) && taken.includes("env"))
          context.report({ node, message });
      },
    };
  },
};

const noDefaultExport: Rule = {
  create: (context) => {
    // Programs that are not ours look for a default export in their configuration and plugins.
    if (/\.config\.ts$|^scripts\/lint\/plugin\.ts$/.test(fileOf(context))) return {};
    const message = "Exports have names: a default export is called something else in every file that imports it.";
    return {
      ExportDefaultDeclaration: (node) => context.report({ node, message }),
      ExportSpecifier: (node) => {
        if ((nameOf(node["exported"]) || textOf(node["exported"])) === "default") context.report({ node, message });
      },
    };
  },
};

const noModuleState: Rule = {
  create: (context) => ({
    Program: (program) => {
      // A test file is run once by itself, and what its hooks prepare has to stand somewhere.
      if (fileOf(context).endsWith(".test.ts")) return;
      for (const statement of nodesOf(program["body"])) {
        const exported = statement.type === "ExportNamedDeclaration" ? nodeOf(statement["declaration"]) : null;
        const declaration = exported ?? statement;
        if (declaration.type !== "VariableDeclaration" || !["let", "var"].includes(String(declaration["kind"])))
          continue;
        context.report({
          node: declaration,
          message: "A module holds no changing state: two users of it in one process would share it.",
        });
      }
    },
  }),
};

const TEST_FUNCTION = /^(?:test|it|describe|suite)(?:\.\w+)*\.(\w+)$/;

const honestTests: Rule = {
  create: (context) => ({
    MemberExpression: (node) => {
      const modifier = TEST_FUNCTION.exec(dotted(node))?.[1];
      if (modifier === "only") context.report({ node, message: "A test with .only keeps all others from running." });
      if (modifier !== "skip" && modifier !== "todo" && modifier !== "skipIf" && modifier !== "runIf") return;
      if (isExplained(context, node)) return;
      context.report({ node, message: `Say in a comment before it why this is .${modifier}.` });
    },
  }),
};

/** A comment directly before the statement that the node stands in. */
function isExplained(context: Context, node: Node): boolean {
  let statement: Node | null = node;
  while (statement !== null && !/Statement$|Declaration$/.test(statement.type)) statement = nodeOf(statement["parent"]);
  return statement !== null && context.sourceCode.getCommentsBefore(statement).length > 0;
}

const nodePrefix: Rule = {
  create: (context) =>
    onImport((specifier, node) => {
      if (!isBareBuiltin(specifier)) return;
      context.report({ node, message: `Write node:${specifier}, which cannot be taken for a package.` });
    }),
};

function isBareBuiltin(specifier: string): boolean {
  return !specifier.startsWith("node:") && process.getBuiltinModule(specifier) !== undefined;
}

export default {
  meta: { name: "house" },
  rules: {
    "process-home": processHome,
    "removal-home": removalHome,
    "environment-home": environmentHome,
    "no-default-export": noDefaultExport,
    "no-module-state": noModuleState,
    "honest-tests": honestTests,
    "node-prefix": nodePrefix,
  },
};
